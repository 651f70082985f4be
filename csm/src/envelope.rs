//! What surrounds every answer: `{"Response": {…, "RequestId": "…"}}`, with an `Error` member when the call failed.
//!
//! Failures too are answered with HTTP status 200 and the content type exactly [`CONTENT_TYPE`]: the vendor's clients
//! take anything else for a network error, or for success.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The content type of every answer, with no charset.
pub const CONTENT_TYPE: &str = "application/json";

/// An error as the API reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ErrorBody {
    /// What programs go by: `Category` or `Category.Detail`.
    pub code: String,
    /// What people read; not to be relied on.
    pub message: String,
}

/// Surrounds an answer.
///
/// # Panics
/// When `answer` is not a structure of [`crate::types`].
#[must_use]
pub fn success<T: Serialize>(answer: &T, request_id: &str) -> String {
    let Ok(Value::Object(mut members)) = serde_json::to_value(answer) else {
        panic!("an answer serialises to an object");
    };
    members.insert("RequestId".to_owned(), request_id.into());
    surround(members)
}

/// Surrounds an error.
#[must_use]
pub fn failure(error: &ErrorBody, request_id: &str) -> String {
    let mut members = Map::new();
    let body = serde_json::json!({"Code": error.code, "Message": error.message});
    members.insert("Error".to_owned(), body);
    members.insert("RequestId".to_owned(), request_id.into());
    surround(members)
}

fn surround(members: Map<String, Value>) -> String {
    let mut response = Map::new();
    response.insert("Response".to_owned(), Value::Object(members));
    Value::Object(response).to_string()
}

/// An answer taken out of its envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Opened {
    /// The answer's members, or the error.
    pub result: Result<Value, ErrorBody>,
    /// The request's id; empty when the server gave none.
    pub request_id: String,
}

/// Takes an answer out of its envelope; `None` when there is no envelope.
#[must_use]
pub fn open(body: &[u8]) -> Option<Opened> {
    let mut document: Value = serde_json::from_slice(body).ok()?;
    let Value::Object(mut members) = document.get_mut("Response")?.take() else {
        return None;
    };
    let request_id = match members.remove("RequestId") {
        Some(Value::String(id)) => id,
        _ => String::new(),
    };
    let result = match members.remove("Error") {
        None | Some(Value::Null) => Ok(Value::Object(members)),
        Some(error) => Err(serde_json::from_value(error).ok()?),
    };
    Some(Opened { result, request_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{DeleteMigrationJobResponse, DescribeMigrationJobsResponse};

    #[test]
    fn an_answer_comes_out_as_it_went_in() {
        let text = success(
            &DescribeMigrationJobsResponse {
                total_count: 3,
                ..Default::default()
            },
            "id-1",
        );
        assert_eq!(
            text,
            r#"{"Response":{"MigrationJobs":[],"RequestId":"id-1","TotalCount":3}}"#
        );
        let opened = open(text.as_bytes()).unwrap();
        assert_eq!(opened.request_id, "id-1");
        let answer: DescribeMigrationJobsResponse = serde_json::from_value(opened.result.unwrap()).unwrap();
        assert_eq!(answer.total_count, 3);
        let empty = success(&DeleteMigrationJobResponse {}, "id-2");
        assert_eq!(empty, r#"{"Response":{"RequestId":"id-2"}}"#);
    }

    #[test]
    fn an_error_comes_out_as_it_went_in() {
        let error = ErrorBody {
            code: "InvalidAction".into(),
            message: "No \"such\" action.".into(),
        };
        let opened = open(failure(&error, "id").as_bytes()).unwrap();
        assert_eq!((opened.result, opened.request_id.as_str()), (Err(error), "id"));
    }

    #[test]
    fn unknown_missing_and_null_members_are_tolerated() {
        let text = r#"{"Response": {"MigrationJobs": [{"JobId": null, "Novelty": [1], "SystemDiskInfo": {"Size": null}}],
            "TotalCount": null, "RequestId": null, "Extra": {}}}"#;
        let opened = open(text.as_bytes()).unwrap();
        let answer: DescribeMigrationJobsResponse = serde_json::from_value(opened.result.unwrap()).unwrap();
        assert_eq!((answer.total_count, answer.migration_jobs.len()), (0, 1));
        assert!(
            answer.migration_jobs[0]
                .system_disk_info
                .as_ref()
                .unwrap()
                .device
                .is_empty()
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_opened_or_not(start in r#"\{"Response": ?\{?("Error": ?)?"#, rest in ".{0,60}") {
            let _ = open(format!("{start}{rest}").as_bytes());
        }
    }

    #[test]
    fn anything_else_is_not_an_envelope() {
        for body in [
            &b""[..],
            b"<html>",
            b"[]",
            b"{}",
            br#"{"Response": []}"#,
            br#"{"Response": {"Error": 1}}"#,
        ] {
            assert_eq!(open(body), None);
        }
    }
}
