"""Drives every action of a control plane with the vendor's public SDK.

    SECRET_ID=... SECRET_KEY=... every_action.py ENDPOINT

For each signature method, by POST and by GET, a whole migration of each kind is played: registration, a job onto an
instance with pause and resume, a job into an image through a transit instance, a job onto a lighthouse instance, and
everything a CVM instance goes through. A temporary key does what it may. Then what goes wrong is tried, and must arrive as TencentCloudSDKException with
the code of the reference. Prints one JSON object: which actions answered, by which way, and which codes arrived.

The control plane must have hooks for its instances (`--provider command`) and the region local-1.
"""

import json
import os
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import requests
from tencentcloud.common import credential
from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

REGION = "local-1"
VERSIONS = {"csm": "2021-09-15", "cvm": "2017-03-12", "go2cloud": "2026-11-01"}
METHODS = ["TC3-HMAC-SHA256", "HmacSHA1", "HmacSHA256"]
WAYS = [(method, http) for method in METHODS for http in ["POST", "GET"]]
# Longer than any step of a control plane whose hooks do nothing.
PATIENCE_SECONDS = 20


class Plane:
    """One control plane, called in one way."""

    def __init__(self, endpoint, secret_id, secret_key, way=WAYS[0], region=REGION):
        self.endpoint, self.way, self.region = endpoint, way, region
        self.key = credential.Credential(secret_id, secret_key)
        self.answered = set()

    def client(self, service, version=None):
        http = HttpProfile(protocol="http", endpoint=self.endpoint, reqMethod=self.way[1], reqTimeout=10)
        profile = ClientProfile(signMethod=self.way[0], httpProfile=http, language="en-US")
        return CommonClient(service, version or VERSIONS[service], self.key, self.region, profile)

    def call(self, service, action, **parameters):
        answer = self.client(service).call_json(action, parameters)["Response"]
        assert uuid.UUID(answer["RequestId"]), answer
        self.answered.add(action)
        return answer

    def csm(self, action, **parameters):
        return self.call("csm", action, **parameters)

    def cvm(self, action, **parameters):
        return self.call("cvm", action, **parameters)

    def wait(self, what, ready):
        """Asks until the answer is the one wanted."""
        deadline = time.time() + PATIENCE_SECONDS
        while True:
            seen = ready()
            if seen:
                return seen
            assert time.time() < deadline, f"{what} did not happen within {PATIENCE_SECONDS} s"
            time.sleep(0.3)


def instances(plane, name):
    """A CVM instance from its image to its end, but not its end: later steps need it."""
    regions = plane.cvm("DescribeRegions")
    assert any(region["Region"] == REGION for region in regions["RegionSet"]), regions
    zone = plane.cvm("DescribeZones")["ZoneSet"][0]["Zone"]
    image = plane.cvm("ImportImage", Architecture="x86_64", OsType="Debian", OsVersion="12",
                      ImageUrl="http://127.0.0.1/disk.qcow2", ImageName=name)["ImageId"]
    normal = lambda: plane.cvm("DescribeImages", ImageIds=[image])["ImageSet"][0]["ImageState"] == "NORMAL"
    plane.wait("import of the image", normal)
    run = plane.cvm("RunInstances", Placement={"Zone": zone}, ImageId=image, InstanceName=name, InstanceCount=1,
                    SystemDisk={"DiskSize": 50}, DataDisks=[{"DiskSize": 20}, {"DiskSize": 10}])
    instance = run["InstanceIdSet"][0]

    def state(wanted):
        status = plane.cvm("DescribeInstancesStatus", InstanceIds=[instance])["InstanceStatusSet"]
        return len(status) == 1 and status[0]["InstanceState"] == wanted

    plane.wait("start", lambda: state("RUNNING"))
    found = plane.cvm("DescribeInstances", InstanceIds=[instance])["InstanceSet"]
    assert [found[0]["InstanceId"], found[0]["InstanceName"]] == [instance, name], found
    plane.cvm("StopInstances", InstanceIds=[instance], StopType="SOFT")
    plane.wait("stop", lambda: state("STOPPED"))
    assert plane.cvm("CreateImage", InstanceId=instance, ImageName=name + "-copy")["ImageId"]
    plane.cvm("StartInstances", InstanceIds=[instance])
    plane.wait("start", lambda: state("RUNNING"))
    plane.cvm("RebootInstances", InstanceIds=[instance], ForceReboot=True)
    plane.wait("reboot", lambda: state("RUNNING"))
    return instance


SYSTEM_DISK = {
    "Device": "/dev/vda", "Size": 50, "PartitionStyle": "GPT",
    "Partitions": [{"Device": "/dev/vda1", "MountPoint": "/", "Size": 49, "Bootable": True, "FileSystem": "ext4",
                    "Block": {"Supported": True, "Enabled": False}}],
}
DATA_DISK = {"Index": 1, "Device": "/dev/vdb", "Size": 20, "MountPoint": "/srv"}


def source(plane, name):
    """Registers a source and lets it be heard from."""
    registered = plane.csm(
        "CreateSourceServer", ClientVersion="2.1.3", Architecture="x86_64", OsType="Debian",
        SystemInfo={"KernelVersion": "6.1.0", "HostName": "web_01", "OsName": "Debian GNU/Linux 12"},
        ServerInfo={"ProcessorNum": 2, "Ip": "10.0.0.1", "Mac": "52:54:00:12:34:56", "Memory": 4, "BootMode": "UEFI"},
        SystemDiskInfo=SYSTEM_DISK, DataDisksInfo=[DATA_DISK], Identifier=(uuid.uuid4().hex * 2), Name=name)
    source_id = registered["SourceServerId"]
    plane.csm("ModifySourceServer", SourceServerId=source_id, Description="迁移 source (1)",
              UpdateTime=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    listed = plane.csm("DescribeSourceServers", Limit=10, Offset=0,
                       Filters=[{"Name": "source-server-id", "Values": [source_id]}])
    assert listed["TotalCount"] == 1 and listed["SourceServers"][0]["Description"] == "迁移 source (1)", listed
    assert listed["SourceServers"][0]["Status"] == "ONLINE", listed
    denied = plane.csm("DescribeSourceServerDeniedActions", SourceServerIds=[source_id])
    assert denied["SourceServerDeniedActionSet"][0]["SourceServerId"] == source_id, denied
    return source_id


def job_of(plane, job_id):
    jobs = plane.csm("DescribeMigrationJobs", Filters=[{"Name": "job-id", "Values": [job_id]}])["MigrationJobs"]
    assert len(jobs) == 1, jobs
    return jobs[0]


def start_job(plane, source_id, **target):
    job_id = plane.csm("CreateMigrationJob", SourceServerId=source_id, SystemDiskInfo=SYSTEM_DISK,
                       Mode=0, TargetRegion=REGION,
                       MigrationConfigInfo={"Checksum": True, "BandwidthLimit": "1024"}, **target)["JobId"]
    denied = plane.csm("DescribeMigrationJobDeniedActions", JobIds=[job_id])["JobDeniedActionSet"][0]
    assert "StopMigrationJob" in [action["Action"] for action in denied["DeniedActions"]], denied
    plane.csm("StartMigrationJob", JobId=job_id)
    assert job_of(plane, job_id)["Status"] == "RUNNING"
    return job_id


def finish_job(plane, job_id):
    plane.csm("ModifyMigrationJob", JobId=job_id, Status="SUCCESS", Progress="100",
              MigrateResult={"Result": "succ", "State": "done", "Desc": "everything was copied"})
    job = job_of(plane, job_id)
    assert [job["Status"], job["Progress"]] == ["SUCCESS", 100], job
    plane.csm("DeleteMigrationJob", JobId=job_id)


def migrate_to_instance(plane, source_id, instance):
    job_id = start_job(plane, source_id, TargetType="Instance", InstanceId=instance,
                       DataDisksInfo=[DATA_DISK])
    target = plane.cvm("LiveMigrateInstance", InstanceId=instance, ClientVersion="2.1.3",
                       SysInfo={"OsType": "linux", "OsVersion": "12", "DiskSize": [50, 20]})
    assert target["Ip"] and target["Password"], target.keys()
    plane.csm("ModifyMigrationJob", JobId=job_id, Progress="42.5", LastMessage="half way", LastSpeed="2048",
              RemainingTimeEstimate="7")
    job = job_of(plane, job_id)
    assert [job["Progress"], job["LastSpeed"]] == [42.5, "2048"], job
    assert "half way" in job["LastReportMessage"]["Messages"], job
    plane.csm("StopMigrationJob", JobId=job_id)
    assert job_of(plane, job_id)["Status"] == "STOPPING"
    plane.csm("ModifyMigrationJob", JobId=job_id, Status="STOPPED")
    plane.csm("StartMigrationJob", JobId=job_id)
    plane.cvm("ExitLiveMigrateInstance", InstanceId=instance, MigrateResult="succ",
              SourceSystemInfo={"OsName": "Debian", "KernelVersion": "6.1.0", "Architecture": "x86_64"})
    finish_job(plane, job_id)


def migrate_to_image(plane, source_id, name):
    job_id = start_job(plane, source_id, TargetType="Image", ImageName=name + "-image")
    created = plane.csm("CreateTransitInstance", JobId=job_id, SystemDiskInfo=SYSTEM_DISK)
    transit = created["InstanceId"]
    described = lambda: plane.csm("DescribeTransitInstance", JobId=job_id)["InstanceSet"]
    running = lambda: [one for one in described() if one["InstanceState"] == "RUNNING"]
    assert plane.wait("start of the transit instance", running)[0]["InstanceId"] == transit
    plane.cvm("LiveMigrateInstance", InstanceId=transit)
    plane.cvm("ExitLiveMigrateInstance", InstanceId=transit, MigrateResult="succ")
    image = plane.csm("CreateImageForTransitInstance", JobId=job_id)["ImageId"]
    states = lambda: plane.cvm("DescribeImages", ImageIds=[image])["ImageSet"]
    plane.wait("making of the image", lambda: [one for one in states() if one["ImageState"] == "NORMAL"])
    plane.csm("TerminateTransitInstance", JobId=job_id)
    finish_job(plane, job_id)


def migrate_to_lighthouse(plane, source_id, name):
    instance = plane.call("go2cloud", "CreateInstance", InstanceName=name + "-lh", Product="lh",
                          SystemDiskSize=50, DataDiskSizes=[20])["InstanceId"]
    job_id = start_job(plane, source_id, TargetType="Lh-Instance", InstanceId=instance, Product="lh",
                       DataDisksInfo=[DATA_DISK])
    target = plane.csm("LiveMigrateLhInstance", InstanceId=instance, ClientVersion="2.1.3")
    assert target["Password"], target.keys()
    plane.csm("ExitLiveMigrateLhInstance", InstanceId=instance, MigrateResult="succ", SupportCloudInit=True)
    finish_job(plane, job_id)
    plane.call("go2cloud", "DeleteInstance", InstanceId=instance)


def everything(plane, number):
    name = f"sdk-{number}"
    instance = instances(plane, name)
    source_id = source(plane, name)
    migrate_to_instance(plane, source_id, instance)
    migrate_to_image(plane, source_id, name)
    migrate_to_lighthouse(plane, source_id, name)
    plane.csm("DeleteSourceServer", SourceServerId=source_id)
    plane.cvm("TerminateInstances", InstanceIds=[instance])
    left = lambda: plane.cvm("DescribeInstances", InstanceIds=[instance])["InstanceSet"]
    plane.wait("end of the instance", lambda: not left())


def code_of(call):
    """The code that a call is refused with, as the SDK tells it."""
    try:
        answer = call()
    except TencentCloudSDKException as refusal:
        assert refusal.get_request_id(), refusal
        assert refusal.get_message(), refusal
        return refusal.get_code()
    raise AssertionError(f"answered instead of refused: {answer}")


def with_clock(offset_seconds, call):
    """Makes a call while the SDK's clock is off. An answer counts within the same second: a clock that is ahead comes closer."""
    true_time = time.time
    while True:
        second = int(true_time())
        time.time = lambda: true_time() + offset_seconds
        try:
            answer = call()
        finally:
            time.time = true_time
        if int(true_time()) == second:
            return answer


def refusals(endpoint, secret_id, secret_key, way):
    """What the same call is refused with when one thing is wrong. By way, because the paths through the server differ."""
    plane = Plane(endpoint, secret_id, secret_key, way)
    missing_job = "migrate-" + uuid.uuid4().hex[:8]
    listing = lambda plane, **parameters: plane.csm("DescribeMigrationJobs", **parameters)
    other_version = lambda: plane.client("csm", "2020-01-01").call_json("DescribeMigrationJobs", {})
    temporary = Plane(endpoint, secret_id, secret_key, way)
    temporary.key = credential.Credential(secret_id, secret_key, "not-its-token")
    return {
        "wrong secret key": code_of(lambda: listing(Plane(endpoint, secret_id, secret_key + "x", way))),
        "unknown secret id": code_of(lambda: listing(Plane(endpoint, "AKID" + "0" * 32, secret_key, way))),
        "token of a permanent key": code_of(lambda: listing(temporary)),
        "clock behind": code_of(lambda: with_clock(-301, lambda: listing(plane))),
        "clock ahead": code_of(lambda: with_clock(301, lambda: listing(plane))),
        "unknown action": code_of(lambda: plane.csm("DescribeNothing")),
        "action of the other service": code_of(lambda: plane.csm("DescribeInstances")),
        "unknown version": code_of(other_version),
        "unknown region": code_of(lambda: listing(Plane(endpoint, secret_id, secret_key, way, "nowhere-1"))),
        "missing parameter": code_of(lambda: plane.csm("StartMigrationJob")),
        "unknown parameter": code_of(lambda: listing(plane, Colour="red")),
        "parameter of another type": code_of(lambda: listing(plane, Limit="many")),
        "parameter out of range": code_of(lambda: listing(plane, Limit=51)),
        "malformed job": code_of(lambda: plane.csm("StartMigrationJob", JobId="job 1")),
        "unknown job": code_of(lambda: plane.csm("StartMigrationJob", JobId=missing_job)),
        "forbidden character": code_of(lambda: listing(plane, Filters=[{"Name": "job-name", "Values": ["a;b"]}])),
        "unknown instance": code_of(lambda: plane.cvm("StartInstances", InstanceIds=["ins-00000000"])),
    }


def temporary(plane, way):
    """A temporary key, made from an enrolment code: what it may do, what it may not, and that it needs its token."""
    code = plane.call("go2cloud", "CreateEnrolmentCode", Uses=1, Hours=1)["Code"]
    enrol = lambda: requests.post(f"http://{plane.endpoint}/enrol", json={"Code": code}, timeout=10).json()["Response"]
    made = enrol()
    assert enrol()["Error"]["Code"] == "AuthFailure.TokenFailure", "the code was good for one use"

    def with_token(token):
        guest = Plane(plane.endpoint, made["TmpSecretId"], made["TmpSecretKey"], way)
        guest.key = credential.Credential(made["TmpSecretId"], made["TmpSecretKey"], token)
        return guest

    guest = with_token(made["Token"])
    source_id = source(guest, "guest")
    codes = {
        "for its own source": "",
        "start a job": code_of(lambda: guest.csm("StartMigrationJob", JobId="migrate-00000000")),
        "without its token": code_of(lambda: with_token(None).csm("DescribeMigrationJobs")),
        "with another token": code_of(lambda: with_token("x" + made["Token"]).csm("DescribeMigrationJobs")),
    }
    plane.csm("DeleteSourceServer", SourceServerId=source_id)
    return codes


def flood(plane):
    """Calls from many threads until the limit of 20 a second is felt; a busy machine makes fewer calls a second."""
    codes = set()

    def once(_):
        if codes:
            return
        try:
            plane.client("cvm").call_json("DescribeZones", {})
        except TencentCloudSDKException as refusal:
            codes.add(refusal.get_code())

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(once, range(1000)))
    return sorted(codes)


def multipart(plane):
    client = plane.client("csm")
    return code_of(lambda: client.call_json("DescribeMigrationJobs", {"Limit": "1"}, options={"IsMultipart": True}))


def main():
    endpoint, secret_id, secret_key = sys.argv[1], os.environ["SECRET_ID"], os.environ["SECRET_KEY"]
    report = {"answered": {}, "refused": {}, "temporary": {}}
    for number, way in enumerate(WAYS):
        plane = Plane(endpoint, secret_id, secret_key, way)
        everything(plane, number)
        report["answered"][" ".join(way)] = sorted(plane.answered)
        # The limit of 20 calls of one action a second is not what is tried here.
        time.sleep(1.1)
        report["temporary"][" ".join(way)] = temporary(Plane(endpoint, secret_id, secret_key), way)
        report["refused"][" ".join(way)] = refusals(endpoint, secret_id, secret_key, way)
        time.sleep(1.1)
    report["multipart"] = multipart(Plane(endpoint, secret_id, secret_key))
    report["flood"] = flood(Plane(endpoint, secret_id, secret_key))
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
