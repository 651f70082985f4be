"""One call of the migration service, signed as its reference says (TC3-HMAC-SHA256), with nothing but Python itself.

call.py HOST:PORT ACTION PARAMETERS-IN-JSON, with SECRET_ID and SECRET_KEY in the environment; prints the answer.
"""

import hashlib
import hmac
import json
import os
import sys
import time
import urllib.request
import uuid

VERSION = "2021-09-15"
SERVICE = "csm"
REGION = "local-1"


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256)


def authorization(host, body, timestamp):
    date = time.strftime("%Y-%m-%d", time.gmtime(timestamp))
    scope = f"{date}/{SERVICE}/tc3_request"
    headers = f"content-type:application/json\nhost:{host}\n"
    request = f"POST\n/\n\n{headers}\ncontent-type;host\n{digest(body)}"
    text = f"TC3-HMAC-SHA256\n{timestamp}\n{scope}\n{digest(request)}"
    key = ("TC3" + os.environ["SECRET_KEY"]).encode()
    for part in (date, SERVICE, "tc3_request"):
        key = sign(key, part).digest()
    credential = f"{os.environ['SECRET_ID']}/{scope}"
    signature = sign(key, text).hexdigest()
    return f"TC3-HMAC-SHA256 Credential={credential}, SignedHeaders=content-type;host, Signature={signature}"


def main():
    host, action, body = sys.argv[1:4]
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "Host": host,
        "X-TC-Action": action,
        "X-TC-Version": VERSION,
        "X-TC-Region": REGION,
        "X-TC-Timestamp": str(timestamp),
        "X-TC-TraceId": str(uuid.uuid4()),
        "Authorization": authorization(host, body, timestamp),
    }
    request = urllib.request.Request(f"http://{host}/", body.encode(), headers)
    # Whatever proxy the environment names is not for a control plane on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        answer = json.load(response)["Response"]
    if "Error" in answer:
        sys.exit(f"{action}: {answer['Error']}")
    print(json.dumps(answer))


main()
