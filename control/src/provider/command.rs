//! `command`: the operator's own hooks, so that any hypervisor or cloud can be attached.
//!
//! A hook is an executable file in one folder, named after what it does: `create`, `destroy`, `enter`, `exit`, `start`,
//! `stop`, `reboot`, `image`, `discard-image`, `import`. It gets one JSON object on its standard input (secrets never in
//! arguments or the environment) and says by its exit code whether it succeeded; `enter` prints
//! `{"Ip":"…","LanIp":"…","Port":443}`. A hook may be called again for what it has done already. A hook that is not there
//! makes its operation unsupported, except `destroy`, `exit` and `discard-image`, which then are nothing.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use csm::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{Doing, Endpoint, Outcome, Power, Provider, ProviderError, Reachability};
use crate::records::{Image, Instance};

/// Longest answer that is read, in bytes: an `enter` answer has about a hundred.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// How long a hook may run: making an image of 450 GB at 160 MB/s takes 48 minutes.
const TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// The operator's hooks.
#[derive(Debug)]
pub struct CommandProvider {
    folder: PathBuf,
}

impl CommandProvider {
    /// Hooks in this folder.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    async fn call(&self, hook: &str, input: &Value) -> Result<Vec<u8>, ProviderError> {
        let path = self.folder.join(hook);
        if !path.exists() {
            return Err(ProviderError::Unsupported(format!(
                "there is no hook {}",
                path.display()
            )));
        }
        let failed = |why: String| ProviderError::Failed(format!("the hook {hook} failed: {why}"));
        let mut child = Command::new(&path)
            .env("GO2CLOUD_HOOK", hook)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let mut stdin = child
            .stdin
            .take()
            .ok_or_else(|| failed("it has no input".to_owned()))?;
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| failed("it has no output".to_owned()))?;
        let stderr = child
            .stderr
            .take()
            .ok_or_else(|| failed("it has no error output".to_owned()))?;
        let work = async {
            // A hook that does not read its input is none the worse.
            let write = async {
                drop(stdin.write_all(input.to_string().as_bytes()).await);
                drop(stdin);
            };
            let (mut answer, mut complaint) = (Vec::new(), Vec::new());
            let mut stdout = stdout.take(ANSWER_BYTES_MAX);
            let mut stderr = stderr.take(ANSWER_BYTES_MAX);
            let (_, read, complained) = tokio::join!(
                write,
                stdout.read_to_end(&mut answer),
                stderr.read_to_end(&mut complaint)
            );
            read.and(complained).map_err(|error| failed(error.to_string()))?;
            drop((stdout, stderr));
            let status = child.wait().await.map_err(|error| failed(error.to_string()))?;
            if status.success() {
                return Ok(answer);
            }
            let complaint = String::from_utf8_lossy(&complaint);
            let last = complaint
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("it says nothing");
            Err(failed(format!("{status}: {}", last.trim())))
        };
        tokio::time::timeout(TIMEOUT, work)
            .await
            .unwrap_or_else(|_| Err(failed(format!("it did not end within {} s", TIMEOUT.as_secs()))))
    }

    /// Calls a hook that may be absent.
    async fn call_if_there(&self, hook: &str, input: &Value) -> Result<(), ProviderError> {
        if self.folder.join(hook).exists() {
            self.call(hook, input).await.map(drop)
        } else {
            Ok(())
        }
    }
}

fn describe(instance: &Instance) -> Value {
    json!({
        "InstanceId": instance.instance_id,
        "InstanceName": instance.instance_name,
        "InstanceType": instance.instance_type,
        "Kind": instance.kind,
        "OsType": instance.os_type,
        "SystemDiskSize": instance.system_disk_gb,
        "DataDiskSizes": instance.data_disks_gb,
        "TransitOf": instance.transit_of,
        "SubnetId": instance.subnet_id,
    })
}

fn describe_image(image: &Image) -> Value {
    json!({"ImageId": image.image_id, "ImageName": image.image_name, "Kind": image.kind, "OsType": image.os_type})
}

fn read_endpoint(answer: &[u8]) -> Option<Endpoint> {
    let value: Value = serde_json::from_slice(answer).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let ip = text("Ip")?;
    let lan_ip = text("LanIp").unwrap_or_else(|| ip.clone());
    let port = value.get("Port").and_then(Value::as_u64).unwrap_or(443);
    Some(Endpoint {
        ip,
        lan_ip,
        port: u16::try_from(port).ok().filter(|port| *port > 0)?,
    })
}

impl Provider for CommandProvider {
    fn create<'p>(&'p self, instance: &'p Instance, image: Option<&'p Image>) -> Doing<'p, ()> {
        Box::pin(async move {
            let mut input = describe(instance);
            input["Image"] = image.map_or(Value::Null, describe_image);
            self.call("create", &input).await.map(drop)
        })
    }

    fn destroy<'p>(&'p self, instance: &'p Instance) -> Doing<'p, ()> {
        Box::pin(async move { self.call_if_there("destroy", &describe(instance)).await })
    }

    fn enter<'p>(
        &'p self,
        instance: &'p Instance,
        secret: &'p Secret,
        _reach: Reachability,
    ) -> Doing<'p, Endpoint> {
        Box::pin(async move {
            let mut input = describe(instance);
            input["Secret"] = secret.reveal().into();
            let answer = self.call("enter", &input).await?;
            read_endpoint(&answer).ok_or_else(|| {
                ProviderError::Failed(
                    "the hook enter must print {\"Ip\":\"…\",\"LanIp\":\"…\",\"Port\":443}".to_owned(),
                )
            })
        })
    }

    fn exit<'p>(&'p self, instance: &'p Instance, outcome: Outcome) -> Doing<'p, ()> {
        Box::pin(async move {
            let mut input = describe(instance);
            input["MigrateResult"] = if outcome == Outcome::Success {
                "succ"
            } else {
                "fail"
            }
            .into();
            self.call_if_there("exit", &input).await
        })
    }

    fn power<'p>(&'p self, instance: &'p Instance, power: Power) -> Doing<'p, ()> {
        Box::pin(async move {
            let hook = match power {
                Power::Start => "start",
                Power::Stop => "stop",
                Power::Reboot => "reboot",
            };
            self.call(hook, &describe(instance)).await.map(drop)
        })
    }

    fn make_image<'p>(&'p self, instance: &'p Instance, image: &'p Image) -> Doing<'p, ()> {
        Box::pin(async move {
            let mut input = describe(instance);
            input["Image"] = describe_image(image);
            self.call("image", &input).await.map(drop)
        })
    }

    fn discard_image<'p>(&'p self, image: &'p Image) -> Doing<'p, ()> {
        Box::pin(async move { self.call_if_there("discard-image", &describe_image(image)).await })
    }

    fn import_image<'p>(&'p self, image: &'p Image, url: &'p str) -> Doing<'p, ()> {
        Box::pin(async move {
            let mut input = describe_image(image);
            input["Url"] = url.into();
            self.call("import", &input).await.map(drop)
        })
    }

    fn place(&self, _instance: &Instance) -> Option<PathBuf> {
        None
    }
}
