//! `user.json`: who migrates whereto.

use std::path::Path;

use super::document::Document;
use crate::refusal::Refusals;
use crate::secret_text::SecretText;

/// The content of `user.json`; everything in it is optional.
#[derive(Debug, Default)]
pub struct UserFile {
    /// Id of the API key.
    pub secret_id: Option<SecretText>,
    /// API key.
    pub secret_key: Option<SecretText>,
    /// Region of the target.
    pub region: Option<String>,
    /// Target instance.
    pub instance_id: Option<String>,
    /// API endpoint.
    pub endpoint: Option<String>,
}

const KEYS: [&str; 5] = ["SecretId", "SecretKey", "Region", "InstanceId", "EndPoint"];

impl UserFile {
    /// Reads the text of `path`.
    pub(super) fn parse(path: &Path, text: &str, refusals: &mut Refusals) -> Self {
        let Some(mut document) = Document::parse(path, text, refusals) else {
            return Self::default();
        };
        let file = Self {
            secret_id: document.text(&["SecretId"], refusals).map(SecretText::new),
            secret_key: document.text(&["SecretKey"], refusals).map(SecretText::new),
            region: document.text(&["Region"], refusals),
            instance_id: document.text(&["InstanceId"], refusals),
            endpoint: document.text(&["EndPoint"], refusals),
        };
        // Older editions described the target's disks here; the API knows them by now.
        document.ignore("DataDisks");
        document.finish(&KEYS, refusals);
        file
    }
}
