//! The configuration files beside the program: `user.json` and `client.json`.
//!
//! Both spellings of the documentation are read, letter case does not matter, and every error names file, line and
//! column. Unknown keys are refused with the nearest known one: a misspelt key that is ignored is worse than an error.

use std::path::{Path, PathBuf};

use crate::refusal::Refusals;

mod client;
mod document;
mod user;

pub use client::ClientFile;
pub use user::UserFile;

/// Both files, as far as they exist.
#[derive(Debug, Default)]
pub struct Files {
    /// Who and whereto.
    pub user: UserFile,
    /// How.
    pub client: ClientFile,
}

impl Files {
    /// Reads `user.json` and `client.json` in `folder`. A missing file is an empty one.
    pub fn read(folder: Option<&Path>, refusals: &mut Refusals) -> Self {
        let Some(folder) = folder else {
            return Self::default();
        };
        let user = folder.join("user.json");
        let client = folder.join("client.json");
        Self {
            user: read(&user, refusals)
                .map(|text| UserFile::parse(&user, &text, refusals))
                .unwrap_or_default(),
            client: read(&client, refusals)
                .map(|text| ClientFile::parse(&client, &text, refusals))
                .unwrap_or_default(),
        }
    }
}

fn read(path: &PathBuf, refusals: &mut Refusals) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            refusals.add(format!("{}: {error}", path.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests;
