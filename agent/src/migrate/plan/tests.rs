use std::ffi::OsString;

use super::*;
use crate::cli::{self, Command, Parsed};

const KEYS: &str = "-secret-id AK -secret-key SK";

fn args(line: &str) -> JobArgs {
    let words = std::iter::once("go2cloud").chain(line.split_whitespace());
    match cli::parse(words.map(OsString::from)) {
        Parsed::Run(command, _) => match *command {
            Command::Job(args) => *args,
            other => panic!("{line} gave {other:?}"),
        },
        other => panic!("{line} gave {other:?}"),
    }
}

fn plan(line: &str, files: &[(&str, &str)]) -> Result<Plan, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    Plan::check_in(&args(line), folder.path(), Refusals::default())
        .map_err(|refusals| refusals.as_slice().to_vec())
}

#[test]
fn the_documented_command_waits_for_a_job() {
    let plan = plan(&format!("-region R -endpoint api3.example.cn {KEYS}"), &[]).unwrap();
    let Task::Jobs(control, None) = plan.task else {
        panic!("{:?}", plan.task);
    };
    assert_eq!(
        (control.endpoint.as_str(), control.region.as_str()),
        ("api3.example.cn", "R")
    );
    assert_eq!(control.trust, Trust::System);
    assert_eq!(plan.source_root, Path::new("/"));
    assert_eq!((plan.run.log_level, plan.run.has_idle_target), (2, false));
}

#[test]
fn what_is_asked_of_the_targets_disks_reaches_the_target() {
    let control = format!("-region R -endpoint api3.example.cn {KEYS}");
    for (flags, minify, grow) in [
        ("", false, false),
        ("-grow", false, true),
        ("-minify", true, false),
    ] {
        let plan = plan(&format!("{control} {flags}"), &[]).unwrap();
        let text = crate::migrate::machine::document(&plan, &transfer::storage::Inventory::default(), true);
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&document["minify"], &document["grow"]),
            (&minify.into(), &grow.into()),
            "{flags}"
        );
    }
}

#[test]
fn flags_win_over_files() {
    let user = r#"{"Region":"file","EndPoint":"file.example","SecretId":"A","SecretKey":"B","InstanceId":"ins-12345678"}"#;
    let client = r#"{"Client":{"Extra":{"IgnoreCheck":true,"Daemon":true}}}"#;
    let files = [("user.json", user), ("client.json", client)];
    let both = plan("-region flag -console -daemon=false", &files).unwrap();
    let Task::Jobs(control, Some(target)) = both.task else {
        panic!("{:?}", both.task);
    };
    assert_eq!(
        (control.region.as_str(), control.endpoint.as_str()),
        ("flag", "file.example")
    );
    assert_eq!(target, Target::Instance("ins-12345678".into()));
    assert!(both.run.ignore_check && !both.run.daemon);
    assert!(plan("", &files).unwrap().run.daemon);
}

#[test]
fn contradictions_are_refused_together() {
    let line = format!(
        "-region R {KEYS} -console -no-console -instance-id lhins-1 -out-image-name i -dest-vpc-id vpc-1 -mode 7 \
         -bandwidth-limit 25601 -incremental-time 59 --log-level 4 --log-file ../x -proxy-ip 1.2.3.4 -remote-ip host"
    );
    let refusals = plan(&line, &[]).unwrap_err();
    for part in [
        "-console` and `-no-console",
        "-endpoint` is missing",
        "Lighthouse",
        "-instance-id` and `-out-image-name",
        "-dest-vpc-id",
        "-mode 7",
        "25601",
        "-incremental-time 59",
        "--log-level 4",
        "--log-file ../x",
        "proxy flags need",
        "-remote-ip host",
    ] {
        assert!(
            refusals.iter().any(|refusal| refusal.contains(part)),
            "{part} in {refusals:#?}"
        );
    }
}

#[test]
fn mode_3_takes_its_proxy_from_flags_or_file() {
    let base = format!("-region R -endpoint e {KEYS} -mode 3");
    assert!(plan(&base, &[]).unwrap_err()[0].contains("-proxy-ip"));
    let client = r#"{"Client":{"Net":{"Proxy":{"Ip":"10.0.0.9","Port":3128,"User":"u","Password":"p"}}}}"#;
    let plan = plan(&format!("{base} -proxy-port=8888"), &[("client.json", client)]).unwrap();
    let Task::Jobs(control, _) = plan.task else {
        panic!("{:?}", plan.task);
    };
    let proxy = control.proxy.unwrap();
    assert_eq!((proxy.ip.to_string().as_str(), proxy.port), ("10.0.0.9", 8888));
    let (user, password) = proxy.login.unwrap();
    assert_eq!((user.as_str(), password.reveal()), ("u", "p"));
}

#[test]
fn checks_need_no_control_plane() {
    assert!(matches!(
        plan("--check", &[]).unwrap().task,
        Task::Check { control: None, .. }
    ));
    assert!(matches!(plan("-blocktest", &[]).unwrap().task, Task::BlockTest));
    assert!(matches!(
        plan("--clean", &[]).unwrap().task,
        Task::Clean(None, None)
    ));
}

#[test]
fn without_console_a_target_is_needed() {
    let base = format!("-no-console -region R -endpoint e {KEYS}");
    assert!(plan(&base, &[]).unwrap_err()[0].contains("-instance-id"));
    let with = plan(&format!("{base} -instance-id ins-abcd1234"), &[]).unwrap();
    assert!(matches!(with.task, Task::NoJob(_, id) if id == "ins-abcd1234"));
}

#[test]
fn mode_1_goes_from_stage_to_stage() {
    let line = format!("-mode 1 -region R -endpoint e {KEYS} -instance-id ins-abcd1234");
    assert!(
        matches!(plan(&line, &[]).unwrap().task, Task::Staged(Stage::Enter(_, id)) if id == "ins-abcd1234")
    );
    let record = |finished: u8| {
        format!(r#"{{"finished":{finished},"instance":"ins-1","address":"10.0.0.2:443","secret":"s"}}"#)
    };
    let task = plan("-mode 1", &[("stage.json", &record(1))]).unwrap().task;
    assert!(matches!(task, Task::Staged(Stage::Data(record)) if record.instance == "ins-1"));
    let task = plan(&line, &[("stage.json", &record(2))]).unwrap().task;
    assert!(matches!(task, Task::Staged(Stage::Leave(..))));
    assert!(
        plan("-mode 1", &[("stage.json", &record(2))]).is_err(),
        "stage 3 needs the API"
    );
}

#[test]
fn direct_migration_needs_address_and_secret_only() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("s.key");
    std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    let line = format!(
        "-no-console -remote-ip ::1 --remote-port 8443 --secret-file {}",
        key.display()
    );
    let Task::Direct { address, .. } = plan(&line, &[]).unwrap().task else {
        panic!("not direct");
    };
    assert_eq!(address.to_string(), "[::1]:8443");
}

#[test]
fn a_plan_shows_no_secret() {
    let plan = plan("-region R -endpoint e -secret-id AKID1 -secret-key hunter2", &[]).unwrap();
    let shown = format!("{plan:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("AKID1"), "{shown}");
}

#[test]
fn the_agent_never_migrates_itself() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("state/inner");
    std::fs::create_dir_all(&inside).unwrap();
    let line = format!(
        "--check --state {} --source-root {}",
        folder.path().join("state").display(),
        inside.display()
    );
    assert!(plan(&line, &[]).unwrap_err()[0].contains("never migrated"));
    let line = format!("--check --state {}", folder.path().join("state").display());
    let plan = plan(&line, &[]).unwrap();
    let never = plan.never(&plan.state_of("job"));
    assert!(
        never.contains(&folder.path().join("state").canonicalize().unwrap()),
        "{never:?}"
    );
    assert!(never.contains(&plan.logs()));
}
