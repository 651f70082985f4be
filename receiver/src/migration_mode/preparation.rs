//! What a source says of itself before its data come: the document of [`transfer::machine::Request::Prepare`].

use serde::{Deserialize, Serialize};
use transfer::{Error, Kind, Result};

use crate::convert::options::Options;
use crate::layout::inventory::{Inventory, VERSION};

/// The document.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preparation {
    /// What will come.
    pub volume: Kinds,
    /// The source's storage and interfaces.
    pub inventory: Inventory,
    /// Whether smaller disks may be used when the data fit.
    pub minify: bool,
    /// Whether the last partition grows into what a larger disk has more.
    pub grow: bool,
    /// Decisions about the conversion.
    pub convert: Options,
}

/// What can come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kinds {
    /// All files: the disks are laid out like the source's first.
    Tree,
    /// Disks as they are.
    #[default]
    Disks,
}

impl Preparation {
    /// Reads the document.
    ///
    /// # Errors
    /// It cannot be understood, or is of another version.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(Kind::Usage, "understand what the source says of itself")
                .remedy("use the same release of go2cloud on both sides")
        };
        let found: Self = serde_json::from_str(text).map_err(|error| bad().because(error))?;
        if found.inventory.version == VERSION {
            Ok(found)
        } else {
            Err(bad().because(format!("its inventory is of version {}", found.inventory.version)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::options::{CloudInitMode, NetworkMode};

    #[test]
    fn a_document_has_defaults_and_no_unknown_names() {
        let text = r#"{"volume":"tree","inventory":{"version":1,"disks":[],"volumes":[],"interfaces":[{"name":"ens192","mac":"00:50:56:aa:bb:cc"}]},
                       "convert":{"cloud_init":"disable","keep":["hostname","dns"]}}"#;
        let found = Preparation::parse(text).unwrap();
        assert_eq!(found.volume, Kinds::Tree);
        assert_eq!(found.inventory.interfaces[0].name, "ens192");
        assert_eq!(found.convert.cloud_init, CloudInitMode::Disable);
        assert_eq!(found.convert.network, NetworkMode::Keep);
        assert!(!found.minify && !found.grow);
        assert!(Preparation::parse(r#"{"inventory":{"version":2,"disks":[],"volumes":[]}}"#).is_err());
        assert!(Preparation::parse(r#"{"inventry":{}}"#).is_err());
    }
}
