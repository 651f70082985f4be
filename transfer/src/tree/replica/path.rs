//! What a generation's records make of one path.

use super::fold::event;
use super::record::{self, Identity};

/// Follows the events of one path in their order.
#[derive(Default)]
pub(super) struct PathStory {
    entry: Option<Vec<u8>>,
    removed: bool,
    identity: Option<Identity>,
    /// Whether chunks of older generations are void.
    barrier: bool,
    /// Digests that came before this sequence number are void.
    valid_from: u64,
    /// Intents for chunks that came before this sequence number have ended.
    torn_from: u64,
    /// Entries: sequence number and number of chunks.
    counts: Vec<(u64, u64)>,
    /// An intent for the whole file that nothing ended yet.
    intent_whole: Option<u64>,
    /// Whether the last intent for chunks came after the last entry.
    intent_after_entry: bool,
    intent_chunks: bool,
}

/// What became of it.
pub(super) struct Ended {
    /// Payload of the last entry.
    pub entry: Option<Vec<u8>>,
    /// Whether the path is gone.
    pub removed: bool,
    /// Whose chunks the valid patches are.
    pub identity: Option<Identity>,
    /// Number of the first chunk that is void in older generations beyond what the entry says.
    pub limit: Option<u64>,
    /// Digests that came before this sequence number are void.
    pub valid_from: u64,
    /// Intents for chunks that came before this sequence number have ended.
    pub torn_from: u64,
    /// Whether an intent is open.
    pub torn: bool,
    /// Whether there was an intent for chunks.
    pub intent_chunks: bool,
    counts: Vec<(u64, u64)>,
}

impl Ended {
    /// Of a patch with this sequence number, the number of chunks that later entries left.
    pub(super) fn count_after(&self, sequence: u64) -> u64 {
        let later = self
            .counts
            .iter()
            .filter(|(at, _)| *at > sequence)
            .map(|(_, count)| *count);
        later.min().unwrap_or(u64::MAX)
    }
}

impl PathStory {
    /// Takes the next event; `None` when it is malformed.
    pub(super) fn event(&mut self, sequence: u64, payload: &[u8]) -> Option<()> {
        let (&kind, mut rest) = payload.split_first()?;
        match kind {
            event::ENTRY => {
                let head = record::head(&mut &rest[..])?;
                self.become_identity(sequence, head.chunked.map(|(identity, _)| identity));
                if let Some((_, count)) = head.chunked {
                    self.counts.push((sequence, count));
                }
                self.entry = Some(rest.to_vec());
                self.removed = false;
                self.intent_whole = None;
                self.intent_after_entry = false;
            }
            event::REMOVE => {
                *self = Self {
                    removed: true,
                    barrier: true,
                    valid_from: sequence,
                    torn_from: sequence,
                    ..Self::default()
                };
            }
            event::CHUNKS => {
                let identity = record::group_identity(&mut rest)?;
                self.become_identity(sequence, Some(identity));
            }
            event::INTENT_WHOLE => self.intent_whole = Some(sequence),
            event::INTENT_CHUNKS => {
                self.intent_chunks = true;
                self.intent_after_entry = true;
            }
            _ => return None,
        }
        Some(())
    }

    /// What is said from now on speaks of `identity`; what was said of another is void.
    fn become_identity(&mut self, sequence: u64, identity: Option<Identity>) {
        let conflicts = self.identity.is_some() && self.identity != identity;
        if identity.is_none() || conflicts {
            self.barrier = true;
            self.valid_from = sequence;
        }
        if identity.is_none() {
            self.torn_from = sequence;
        }
        self.identity = identity;
    }

    /// The end of the story.
    pub(super) fn end(&mut self) -> Ended {
        let mut this = std::mem::take(self);
        if let Some(sequence) = this.intent_whole {
            this.barrier = true;
            this.valid_from = this.valid_from.max(sequence);
            this.torn_from = this.torn_from.max(sequence);
        }
        let limit = this.limit();
        Ended {
            torn: this.intent_whole.is_some() || this.intent_after_entry,
            entry: this.entry,
            removed: this.removed,
            identity: this.identity,
            limit,
            valid_from: this.valid_from,
            torn_from: this.torn_from,
            intent_chunks: this.intent_chunks,
            counts: this.counts,
        }
    }

    fn limit(&self) -> Option<u64> {
        let implied = match &self.entry {
            _ if self.removed => 0,
            Some(payload) => {
                let head = record::head(&mut &payload[..]).expect("checked when the entry came");
                head.chunked.map_or(0, |(_, count)| count)
            }
            None => u64::MAX,
        };
        let least = self
            .counts
            .iter()
            .map(|(_, count)| *count)
            .min()
            .unwrap_or(u64::MAX);
        let limit = if self.barrier { 0 } else { least };
        (limit < implied).then_some(limit)
    }
}
