//! The program under test, in a folder of its own, with hooks that do nothing for its instances.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use csm::client::{Call, Config};
use csm::types::{CreateMigrationJob, CreateSourceServer, SystemDiskInfo};
use csm::{Client, Credential};
use serde_json::json;

use super::generated::World;

/// Keys that requests are spread over, so that the limit of 20 a second for each does not hide what lies behind it.
const KEYS: usize = 12;

pub(crate) struct Plane {
    process: Child,
    pub(crate) address: String,
    folder: tempfile::TempDir,
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Plane {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hooks = folder.path().join("hooks");
        fs::create_dir(&hooks).unwrap();
        for hook in [
            "create",
            "destroy",
            "enter",
            "exit",
            "start",
            "stop",
            "reboot",
            "image",
            "discard-image",
            "import",
        ] {
            let path = hooks.join(hook);
            let answer = r#"{"Ip":"127.0.0.1","LanIp":"127.0.0.1","Port":443}"#;
            fs::write(&path, format!("#!/bin/sh\ncat > /dev/null\necho '{answer}'\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut process = Command::new(env!("CARGO_BIN_EXE_go2cloud-control"))
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--plain-http",
                "--provider",
                "command",
                "--hooks",
            ])
            .arg(&hooks)
            .arg("--data")
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let address = line
                .ok()?
                .split_once("listening on http://")?
                .1
                .split_whitespace()
                .next()?
                .to_owned();
            Some(address.trim_end_matches('/').to_owned())
        });
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        let address = address.unwrap_or_else(|| panic!("the control plane did not come up: {log}"));
        Self {
            process,
            address,
            folder,
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    fn key(&self) -> (String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_go2cloud-control"))
            .args(["key", "create", "--json", "--data"])
            .arg(self.folder.path().join("data"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let key: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |name: &str| key[name].as_str().unwrap().to_owned();
        (text("SecretId"), text("SecretKey"))
    }

    /// Puts something of everything there.
    pub(crate) fn furnished(&self) -> World {
        let keys: Vec<(String, String)> = (0..KEYS).map(|_| self.key()).collect();
        let endpoint = format!("http://{}", self.address).parse().unwrap();
        let credential = Credential::new(&*keys[0].0, &*keys[0].1);
        let client = Client::new(Config::new(endpoint, "local-1", credential)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ids = runtime.block_on(furnish(&client));
        World {
            address: self.address.clone(),
            keys,
            ids,
        }
    }
}

async fn furnish(client: &Client) -> Vec<String> {
    let disk = SystemDiskInfo {
        device: "/dev/vda".into(),
        size: 50,
        ..Default::default()
    };
    let mut ids = Vec::new();
    for number in 0..3 {
        let source = CreateSourceServer {
            client_version: "2.1.3".into(),
            architecture: "x86_64".into(),
            os_type: "Debian".into(),
            identifier: format!("{number}").repeat(64),
            system_disk_info: disk.clone(),
            ..Default::default()
        };
        let source_id = client.call(&source).await.unwrap().source_server_id;
        let call = Call {
            service: "go2cloud",
            version: "2026-11-01",
            action: "CreateInstance",
        };
        let made = client
            .call_by_name(&call, &json!({"SystemDiskSize": 50}))
            .await
            .unwrap();
        let instance_id = made["InstanceId"].as_str().unwrap().to_owned();
        let job = CreateMigrationJob {
            source_server_id: source_id.clone(),
            system_disk_info: disk.clone(),
            target_region: "local-1".into(),
            instance_id: Some(instance_id.clone()),
            target_type: Some("Instance".into()),
            run_mode: Some(if number == 0 {
                "Delayed".into()
            } else {
                "Immediate".into()
            }),
            ..Default::default()
        };
        ids.extend([source_id, instance_id, client.call(&job).await.unwrap().job_id]);
    }
    ids
}
