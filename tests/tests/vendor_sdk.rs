//! The vendor's own public SDK drives every action of the control plane, in all six ways it can sign and send, and gets
//! refusals as its own exceptions with the codes of the reference.
//!
//! Needs python3 with venv, and once the network, to install the SDK; it is kept beside the build.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use go2cloud_tests::control::Control;
use serde::Deserialize;

const CSM: [&str; 18] = [
    "CreateImageForTransitInstance",
    "CreateMigrationJob",
    "CreateSourceServer",
    "CreateTransitInstance",
    "DeleteMigrationJob",
    "DeleteSourceServer",
    "DescribeMigrationJobDeniedActions",
    "DescribeMigrationJobs",
    "DescribeSourceServerDeniedActions",
    "DescribeSourceServers",
    "DescribeTransitInstance",
    "ExitLiveMigrateLhInstance",
    "LiveMigrateLhInstance",
    "ModifyMigrationJob",
    "ModifySourceServer",
    "StartMigrationJob",
    "StopMigrationJob",
    "TerminateTransitInstance",
];

const CVM: [&str; 14] = [
    "CreateImage",
    "DescribeImages",
    "DescribeInstances",
    "DescribeInstancesStatus",
    "DescribeRegions",
    "DescribeZones",
    "ExitLiveMigrateInstance",
    "ImportImage",
    "LiveMigrateInstance",
    "RebootInstances",
    "RunInstances",
    "StartInstances",
    "StopInstances",
    "TerminateInstances",
];

/// What each mistake must be answered with, whichever way it was signed and sent.
const REFUSALS: [(&str, &str); 17] = [
    ("action of the other service", "InvalidAction"),
    ("clock ahead", "AuthFailure.SignatureExpire"),
    ("clock behind", "AuthFailure.SignatureExpire"),
    (
        "forbidden character",
        "InvalidParameterValue.ParameterValueContainsIllegalCharacter",
    ),
    (
        "malformed job",
        "InvalidParameterValue.InvalidMigrateJobIdMalformed",
    ),
    ("missing parameter", "MissingParameter"),
    ("parameter of another type", "InvalidParameter"),
    (
        "parameter out of range",
        "InvalidParameterValue.ParameterValueNotSupportValue",
    ),
    ("token of a permanent key", "AuthFailure.TokenFailure"),
    ("unknown action", "InvalidAction"),
    ("unknown instance", "InvalidInstanceId.NotFound"),
    ("unknown job", "FailedOperation.JobIdNotExist"),
    ("unknown parameter", "UnknownParameter"),
    ("unknown region", "UnsupportedRegion"),
    ("unknown secret id", "AuthFailure.SecretIdNotFound"),
    ("unknown version", "NoSuchVersion"),
    ("wrong secret key", "AuthFailure.SignatureFailure"),
];

/// What a temporary key is answered with.
const TEMPORARY: [(&str, &str); 4] = [
    ("for its own source", ""),
    ("start a job", "AuthFailure.UnauthorizedOperation"),
    ("with another token", "AuthFailure.TokenFailure"),
    ("without its token", "AuthFailure.TokenFailure"),
];

#[derive(Deserialize)]
struct Report {
    answered: BTreeMap<String, Vec<String>>,
    refused: BTreeMap<String, BTreeMap<String, String>>,
    temporary: BTreeMap<String, BTreeMap<String, String>>,
    multipart: String,
    flood: Vec<String>,
}

fn run(command: &mut Command) -> String {
    // The program's name only: `Debug` of a command shows its environment, and with it the key.
    let program = command.get_program().to_owned();
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program:?} failed:\n{said}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A Python with the SDK in it. Made once; the folder's name changes with what is to be installed.
fn python(requirements: &Path) -> PathBuf {
    let wanted = fs::read_to_string(requirements).unwrap();
    let mark = wanted
        .bytes()
        .fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sdk-{mark:08x}"));
    let python = folder.join("bin/python");
    if !folder.exists() {
        // Made under another name first, so that an installation that broke off is not taken for a good one.
        let unfinished = folder.with_extension(std::process::id().to_string());
        run(Command::new("python3")
            .args(["-m", "venv", "--copies"])
            .arg(&unfinished));
        let install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ];
        run(Command::new(unfinished.join("bin/python"))
            .args(install)
            .arg(requirements));
        if fs::rename(&unfinished, &folder).is_err() {
            fs::remove_dir_all(&unfinished).unwrap();
        }
    }
    python
}

#[test]
fn the_vendors_sdk_drives_every_action_in_every_way() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk");
    let python = python(&scripts.join("requirements.txt"));
    let control = Control::with_empty_hooks(&[]);
    let (secret_id, secret_key) = control.create_key();
    let mut command = Command::new(python);
    command.arg(scripts.join("every_action.py")).arg(&control.address);
    command.env("SECRET_ID", secret_id).env("SECRET_KEY", secret_key);
    for proxy in [
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env_remove(proxy);
    }
    let report: Report = serde_json::from_str(&run(&mut command)).unwrap();

    assert_eq!(
        report.answered.len(),
        6,
        "three signature methods, each by POST and by GET"
    );
    for (way, answered) in &report.answered {
        for action in CSM.iter().chain(&CVM) {
            assert!(
                answered.iter().any(|name| name == action),
                "{action} was not answered by {way}"
            );
        }
    }
    let wanted = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
        list.iter()
            .map(|(case, code)| ((*case).to_owned(), (*code).to_owned()))
            .collect()
    };
    for way in report.answered.keys() {
        assert_eq!(report.refused[way], wanted(&REFUSALS), "{way}");
        assert_eq!(report.temporary[way], wanted(&TEMPORARY), "{way}");
    }
    assert_eq!(report.multipart, "UnsupportedOperation");
    assert_eq!(report.flood, ["RequestLimitExceeded"]);
}
