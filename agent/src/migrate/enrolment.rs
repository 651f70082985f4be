//! Temporary keys that an enrolment code was exchanged for, kept until they expire: a code can be used once, but the
//! program is started again after a reboot.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use csm::client::Enrolment;
use csm::credential::Credential;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Kept {
    endpoint: String,
    secret_id: String,
    secret_key: csm::Secret,
    token: Option<csm::Secret>,
    expired_time: String,
}

fn path(state_root: &Path) -> PathBuf {
    state_root.join("enrolment.json")
}

/// The kept key for `endpoint`, unless it has expired.
pub(super) fn kept(state_root: &Path, endpoint: &str) -> Option<Credential> {
    let kept: Kept = serde_json::from_slice(&fs::read(path(state_root)).ok()?).ok()?;
    let expires: jiff::Timestamp = kept.expired_time.parse().ok()?;
    (kept.endpoint == endpoint && expires > jiff::Timestamp::now()).then_some(Credential {
        secret_id: kept.secret_id,
        secret_key: kept.secret_key,
        token: kept.token,
    })
}

/// Keeps the key, readable by its owner only.
pub(super) fn keep(state_root: &Path, endpoint: &str, enrolment: &Enrolment) -> io::Result<()> {
    fs::create_dir_all(state_root)?;
    let kept = Kept {
        endpoint: endpoint.to_owned(),
        secret_id: enrolment.credential.secret_id.clone(),
        secret_key: enrolment.credential.secret_key.clone(),
        token: enrolment.credential.token.clone(),
        expired_time: enrolment.expired_time.clone(),
    };
    let path = path(state_root);
    // An older file may have other permissions.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(&serde_json::to_vec(&kept)?)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_kept_for_their_endpoint_until_they_expire() {
        let folder = tempfile::tempdir().unwrap();
        let enrolment = |expired_time: &str| Enrolment {
            credential: Credential::temporary("id", "key", "token"),
            expired_time: expired_time.to_owned(),
        };
        assert!(kept(folder.path(), "e").is_none());
        keep(folder.path(), "e", &enrolment("2999-01-01T00:00:00Z")).unwrap();
        assert_eq!(kept(folder.path(), "e").unwrap().secret_key.reveal(), "key");
        assert!(kept(folder.path(), "other").is_none());
        let mode = fs::metadata(path(folder.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        keep(folder.path(), "e", &enrolment("2001-01-01T00:00:00Z")).unwrap();
        assert!(kept(folder.path(), "e").is_none());
    }
}
