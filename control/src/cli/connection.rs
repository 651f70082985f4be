//! How the administrator's commands reach a control plane.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use csm::client::{Call, Config, Endpoint, Fingerprint, Trust};
use csm::{Client, Credential};
use serde_json::Value;

use super::show::Output;
use crate::schema::Service;

/// Where the control plane is, and who asks.
#[derive(Clone, Debug, Args)]
pub(super) struct Connection {
    /// Address of the control plane; http:// before it for one without TLS
    #[arg(
        long,
        global = true,
        env = "GO2CLOUD_ENDPOINT",
        default_value = "127.0.0.1:8443"
    )]
    endpoint: String,
    /// Region to ask in
    #[arg(long, global = true, env = "GO2CLOUD_REGION", default_value = crate::region::DEFAULT[0])]
    region: String,
    /// Fingerprint of the control plane's certificate, as it prints it
    #[arg(long, global = true, env = "GO2CLOUD_FINGERPRINT", conflicts_with = "ca_file")]
    fingerprint: Option<String>,
    /// Certificate authorities to believe instead of the system's
    #[arg(long, global = true, value_name = "FILE", env = "GO2CLOUD_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

/// A client, and how to show what it is told.
pub(super) struct Session {
    client: Client,
    /// How to show answers.
    pub(super) output: Output,
    /// The region asked in.
    pub(super) region: String,
}

impl Connection {
    /// Connects and works. The keys come from the environment, so that `ps` does not show them.
    pub(super) fn run(self, work: impl AsyncFnOnce(&Session) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let endpoint: Endpoint = self.endpoint.parse()?;
        let variable = |name: &str| {
            std::env::var(name)
                .with_context(|| format!("set {name}; `go2cloud-control key create` makes a key"))
        };
        let credential = Credential::new(variable("GO2CLOUD_SECRET_ID")?, variable("GO2CLOUD_SECRET_KEY")?);
        let mut config = Config::new(endpoint, &*self.region, credential);
        if let Some(fingerprint) = &self.fingerprint {
            config.trust = Trust::Fingerprint(fingerprint.parse::<Fingerprint>()?);
        }
        if let Some(path) = self.ca_file {
            config.trust = Trust::CaFile(path);
        }
        let output = if self.json { Output::Json } else { Output::Table };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client = Client::new(config).map_err(explain)?;
            work(&Session {
                client,
                output,
                region: self.region,
            })
            .await
        })
    }
}

fn explain(error: csm::client::Error) -> anyhow::Error {
    let remedy = error.remedy();
    anyhow::Error::new(error).context(remedy)
}

impl Session {
    /// Makes a call.
    pub(super) async fn call(&self, service: Service, action: &str, request: Value) -> anyhow::Result<Value> {
        let call = Call {
            service: service.name(),
            version: service.version(),
            action,
        };
        self.client.call_by_name(&call, &request).await.map_err(|error| {
            let remedy = error.remedy();
            if remedy.is_empty() {
                anyhow!("{error}")
            } else {
                anyhow!("{error}\n{remedy}")
            }
        })
    }

    /// Makes a call of CSM.
    pub(super) async fn csm(&self, action: &str, request: Value) -> anyhow::Result<Value> {
        self.call(Service::Csm, action, request).await
    }

    /// Collects all pages of a list.
    pub(super) async fn list(
        &self,
        service: Service,
        action: &str,
        member: &str,
        filters: Value,
    ) -> anyhow::Result<Vec<Value>> {
        const PAGE: usize = 50;
        let mut all = Vec::new();
        loop {
            let request = serde_json::json!({"Limit": PAGE, "Offset": all.len(), "Filters": filters});
            let answer = self.call(service, action, request).await?;
            let page = answer[member].as_array().cloned().unwrap_or_default();
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }
}
