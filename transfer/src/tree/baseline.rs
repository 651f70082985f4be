//! The source's copy of what the target durably holds, and how the two are made equal.
//!
//! The target's replica is the truth. The baseline is used only when its version is the target's; otherwise it is
//! fetched. Records of a round that was not sealed are thrown away: the target seals what it had made durable when the
//! next session opens, and that is then fetched.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::{Error, Kind, Result};
use crate::link::auth::Id;
use crate::protocol::{Order, Report};
use crate::source::conversation::{Answer, Conversation, unexpected};
use crate::tree::replica::{Replica, Version};

/// The baseline of one migration.
pub struct Baseline {
    folder: PathBuf,
    /// `None` only while it is being replaced.
    replica: Mutex<Option<Replica>>,
}

impl Baseline {
    /// Opens or creates the baseline in `state`.
    ///
    /// # Errors
    /// The folder cannot be used, or it belongs to another migration.
    pub fn open(state: &Path, migration: Id) -> Result<Self> {
        let folder = state.join("baseline");
        let replica = match Replica::open_sealed(&folder) {
            Ok(Some(replica)) if replica.migration() != migration => {
                return Err(Error::new(Kind::Usage, "use a state folder of another source")
                    .on(state)
                    .remedy("give each directory that is copied a --state folder of its own"));
            }
            Ok(Some(replica)) => replica,
            Ok(None) => Replica::create(&folder, migration)?,
            // A damaged copy is no loss: the target has the truth.
            Err(error) if error.kind() == Kind::Corrupt => {
                tracing::warn!(%error, "the baseline is damaged; it is fetched from the target");
                Replica::create(&folder, migration)?
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            folder,
            replica: Mutex::new(Some(replica)),
        })
    }

    /// Does something with the replica.
    ///
    /// # Errors
    /// What `action` gives, or an import failed half-way before.
    pub fn with<T>(&self, action: impl FnOnce(&mut Replica) -> Result<T>) -> Result<T> {
        let mut replica = self.replica.lock().expect("not poisoned");
        match replica.as_mut() {
            Some(replica) => action(replica),
            None => Err(Error::new(Kind::Retry, "use the baseline: it was being replaced")),
        }
    }

    /// Makes the baseline equal to what the target holds. Returns whether it was so already.
    ///
    /// # Errors
    /// The session broke, or the disk is full.
    pub fn reconcile(&mut self, theirs: Version, conversation: &Conversation) -> Result<bool> {
        // Closing and opening throws away what was not sealed.
        let slot = self.replica.get_mut().expect("not poisoned");
        drop(slot.take());
        let replica = Replica::open_sealed(&self.folder)?
            .ok_or_else(|| Error::new(Kind::Corrupt, "find the baseline again").on(&self.folder))?;
        let ours = replica.version();
        if ours == theirs {
            *slot = Some(replica);
            return Ok(true);
        }
        drop(replica);
        self.fetch(ours, conversation).map(|()| false)
    }

    /// Fetches what the target holds.
    fn fetch(&mut self, ours: Version, conversation: &Conversation) -> Result<()> {
        let slot = self.replica.get_mut().expect("not poisoned");
        drop(slot.take());
        conversation.order(&Order::Fetch { have: ours })?;
        let mut end = None;
        let pieces = std::iter::from_fn(|| match conversation.answer() {
            Ok(Answer::Replica(piece)) => Some(Ok(piece)),
            Ok(Answer::Report(Report::ReplicaEnd { version })) => {
                end = Some(version);
                None
            }
            Ok(Answer::Report(report)) => Some(Err(unexpected(report))),
            Err(error) => Some(Err(error)),
        });
        let replica = Replica::import(&self.folder, pieces)?;
        let same = end == Some(replica.version());
        *slot = Some(replica);
        if same {
            Ok(())
        } else {
            Err(Error::new(
                Kind::Corrupt,
                "fetch the baseline: it is another one than announced",
            ))
        }
    }

    /// Seals the round that the target has just sealed as `theirs`. Where the target could not take something, the two
    /// differ: then nothing is sealed, and what the target has instead is fetched.
    ///
    /// # Errors
    /// The disk is full or fails, or the session broke.
    pub fn seal(&mut self, theirs: Version, conversation: &Conversation) -> Result<()> {
        let (ours, is_sealed) = self.with(|replica| Ok((replica.version(), replica.seal_as(theirs)?)))?;
        if is_sealed {
            Ok(())
        } else {
            self.fetch(ours, conversation)
        }
    }
}
