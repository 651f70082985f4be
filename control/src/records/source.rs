//! A source server.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Record, Table};
use crate::state::SourceStatus;

/// A source server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the members are those of the API reference")]
pub struct Source {
    pub source_server_id: String,
    pub name: String,
    pub description: String,
    pub status: SourceStatus,
    pub identifier: String,
    pub client_version: String,
    pub system_info: Value,
    pub server_info: Value,
    pub system_disk_info: Value,
    pub data_disks_info: Value,
    pub architecture: String,
    pub os_type: String,
    pub create_time: String,
    pub update_time: String,
    pub end_time: String,
    pub product: String,
    pub platform: String,
    pub session_token: String,
    pub internal: SourceInternal,
}

/// What the API does not show.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SourceInternal {
    /// Who registered it.
    pub owner: String,
    /// Last sign of life by the control plane's clock, in seconds since 1970.
    pub seen: i64,
    /// When it was deleted; 0 if it was not.
    pub ended: i64,
}

impl Source {
    /// As an answer.
    #[must_use]
    pub fn render(&self) -> Value {
        super::render(self)
    }

    /// Whether it runs Windows.
    #[must_use]
    pub fn is_windows(&self) -> bool {
        self.os_type.to_ascii_lowercase().contains("windows")
    }
}

impl Record for Source {
    const TABLE: Table = Table::Source;

    fn id(&self) -> &str {
        &self.source_server_id
    }
}
