//! A migration job.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Record, Table};
use crate::clock;
use crate::state::JobStatus;

/// How many of the agent's messages are kept.
const MESSAGES_MAX: usize = 20;

/// A migration job. Structures that only travel through are kept as given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "the members are those of the API reference")]
pub struct Job {
    pub job_id: String,
    pub name: String,
    pub description: String,
    pub status: JobStatus,
    pub source_server_id: String,
    pub target_type: String,
    pub target_region: String,
    pub instance_id: String,
    pub image_name: String,
    pub image_id: String,
    pub transit_instance_id: String,
    pub security_group: String,
    pub vpc_id: String,
    pub subnet_id: String,
    pub instance_type: String,
    pub mode: u64,
    pub system_disk_info: Value,
    pub data_disks_info: Value,
    pub migration_config_info: Value,
    pub create_time: String,
    pub start_time: String,
    pub update_time: String,
    pub end_time: String,
    pub progress: f64,
    pub last_speed: String,
    pub remaining_time_estimate: String,
    pub incremental_migration: u64,
    pub incremental_time: String,
    pub one_click_job_id: String,
    pub run_mode: String,
    pub exclude_path_list: String,
    pub user_intent_list: String,
    pub product: String,
    pub internal: JobInternal,
}

/// What the API shows in other forms, or not at all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct JobInternal {
    /// Who made it.
    pub owner: String,
    /// The agent's last messages, oldest first.
    pub messages: Vec<String>,
    /// Where it stood when it ended or paused.
    pub result_state: String,
    /// `succ`, `normalFailed` or `malformedFailed`.
    pub result: String,
    /// The agent's own words.
    pub result_desc: String,
    /// When it ended, in seconds since 1970; 0 if it has not.
    pub ended: i64,
    /// The image being made, for which the provider has not reported success.
    pub pending_image_id: String,
}

impl Job {
    /// Whether it ends in an image, by way of a transit instance.
    #[must_use]
    pub fn makes_image(&self) -> bool {
        matches!(self.target_type.as_str(), "Image" | "Lh-Image")
    }

    /// Whether it names this instance as target or transit instance.
    #[must_use]
    pub fn uses_instance(&self, instance_id: &str) -> bool {
        !instance_id.is_empty()
            && (self.instance_id == instance_id || self.transit_instance_id == instance_id)
    }

    /// Adds a message of the agent; one repeated at once is kept once.
    pub fn say(&mut self, message: &str) {
        let messages = &mut self.internal.messages;
        if !message.is_empty() && messages.last().is_none_or(|last| last != message) {
            messages.push(message.to_owned());
            if messages.len() > MESSAGES_MAX {
                messages.remove(0);
            }
        }
    }

    /// Moves it to a status, with the times that belong to it.
    pub fn enter(&mut self, status: JobStatus, now: i64) {
        self.status = status;
        self.update_time = clock::text(now);
        match status {
            JobStatus::Running => {
                self.start_time = clock::text(now);
                self.end_time.clear();
                self.internal.ended = 0;
                self.internal.result.clear();
                self.internal.result_state.clear();
                self.internal.result_desc.clear();
            }
            JobStatus::Success | JobStatus::Failed | JobStatus::Deleted => {
                self.end_time = clock::text(now);
                self.internal.ended = now;
                if status == JobStatus::Success {
                    self.progress = 100.0;
                }
            }
            JobStatus::Pending | JobStatus::Stopping | JobStatus::Stopped | JobStatus::Deleting => {}
        }
    }

    /// As an answer: both forms of the result, and the messages.
    #[must_use]
    pub fn render(&self) -> Value {
        let mut value = super::render(self);
        let internal = &self.internal;
        let (error_id, text) = split_error(&internal.result_desc);
        value["MigrateResult"] = json!({
            "State": internal.result_state, "Result": internal.result, "Desc": internal.result_desc,
        });
        value["MigrateResults"] = json!({
            "State": internal.result_state,
            "Result": internal.result,
            "Desc": {"ErrorId": error_id, "ErrorMessage": text},
        });
        value["LastReportMessage"] = json!({"Messages": internal.messages});
        value
    }
}

/// Splits `ERROR_NAME: text` into its parts; without such a name all is text.
fn split_error(desc: &str) -> (&str, &str) {
    let end = desc
        .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .unwrap_or(desc.len());
    let (name, rest) = desc.split_at(end);
    if name.starts_with("ERROR_") {
        (name, rest.trim_start_matches([':', ' ']))
    } else {
        ("", desc)
    }
}

impl Record for Job {
    const TABLE: Table = Table::Job;

    fn id(&self) -> &str {
        &self.job_id
    }
}

#[cfg(test)]
mod tests {
    use super::split_error;

    #[test]
    fn error_names_are_split_off() {
        assert_eq!(
            split_error("ERROR_SAME_IP: both are 10.0.0.1"),
            ("ERROR_SAME_IP", "both are 10.0.0.1")
        );
        assert_eq!(
            split_error("ERROR_ENTER_MIGRATE_MODE"),
            ("ERROR_ENTER_MIGRATE_MODE", "")
        );
        assert_eq!(split_error("disk full"), ("", "disk full"));
        assert_eq!(split_error("OTHER: x"), ("", "OTHER: x"));
    }
}
