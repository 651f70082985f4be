//! Which migration this is, to the receiver.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::link::auth::Id;

/// The migration of a volume: this machine and where on it the volume is, so that a lost state folder changes nothing. `context`
/// is the kind of volume, as BLAKE3 wants it: one of its own for each use.
///
/// # Errors
/// A path leads nowhere.
pub(crate) fn migration_id<'a>(context: &str, paths: impl IntoIterator<Item = &'a Path>) -> Result<Id> {
    let machine = std::fs::read("/etc/machine-id").or_else(|_| std::fs::read("/proc/sys/kernel/hostname"));
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(machine.unwrap_or_default().trim_ascii());
    for path in paths {
        let canonical = path
            .canonicalize()
            .map_err(|error| Error::io("find what is to be copied", path, error))?;
        hasher.update(&[0]);
        hasher.update(canonical.as_os_str().as_bytes());
    }
    let mut id = Id::default();
    hasher.finalize_xof().fill(&mut id);
    Ok(id)
}
