//! Verification: what arrives is compared with its digests before it is written, and what was written is read back.
//!
//! [`Verified`] is the only thing that the writer takes. [`read_back`] opens every entry of the replica again, has its
//! pages dropped from the cache, and compares content and metadata; the root digest covers every entry, and the source
//! computes it from its own baseline. Of what the target refused, the replica lists what it accepted instead.

use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::protocol::Part;
use crate::tree::capture::{self, Directory, FileKind, Stat};
use crate::tree::entry::{Content, Digest, Entry, EntryPath, Meta, Node, Time};
use crate::tree::long::{digest_of_chunks, digest_of_extents};
use crate::tree::operation::{Loaded, Operation};
use crate::tree::replica::{Cursor, Record, Snapshot};
use crate::tree::write::LABEL;

/// Entries compared at a time: they are spread over the threads and come together in order.
const BATCH: usize = 2048;
/// Bytes read at a time.
const READ_LEN: usize = 1024 * 1024;

/// An operation whose data are what the source hashed.
pub struct Verified<'a>(Loaded<'a>);

impl<'a> Verified<'a> {
    /// Compares the data with the digests.
    ///
    /// # Errors
    /// [`Kind::Corrupt`]: they differ; nothing of it may be written.
    pub fn check(loaded: Loaded<'a>) -> Result<Self> {
        let fits = match &loaded.operation {
            Operation::File {
                entry:
                    Entry {
                        node: Node::File(content),
                        ..
                    },
                extents,
                ..
            } => digest_of_extents(extents, loaded.data, content.len) == content.digest,
            Operation::LongChunks { chunks, .. } => {
                let mut data = loaded.data;
                chunks.iter().all(|chunk| {
                    let len = chunk.extents.iter().map(|extent| extent.len as usize).sum();
                    let (own, others) = data.split_at(len);
                    data = others;
                    digest_of_extents(&chunk.extents, own, u64::from(chunk.len)) == chunk.digest
                })
            }
            _ => true,
        };
        if fits {
            Ok(Self(loaded))
        } else {
            Err(Error::new(
                Kind::Corrupt,
                "write what arrived: it does not have the digest that the source computed",
            )
            .remedy("run again; if it happens twice, check the memory of both machines"))
        }
    }

    /// The operation.
    pub fn operation(&self) -> &Operation {
        &self.0.operation
    }

    /// The operation and its data.
    pub fn into_loaded(self) -> Loaded<'a> {
        self.0
    }
}

/// What [`read_back`] found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Root digest of what is on the medium.
    pub root: [u8; 32],
    /// Entries compared.
    pub compared: u64,
    /// Content bytes read.
    pub bytes: u64,
}

/// How an entry differs.
#[derive(Debug)]
pub struct Difference {
    /// Which part of it.
    pub part: Part,
    /// What, for people.
    pub what: String,
}

/// What both sides record of an entry that differs. A content is unknown then and will be sent again; where only metadata
/// differ, the entry is not clean, so that they are applied again.
///
/// # Errors
/// The replica is damaged.
pub fn record_of(path: EntryPath, part: Part, replica: &mut Cursor) -> Result<Record> {
    if part == Part::Metadata
        && let Some(mut entry) = replica.get(&path)?
    {
        entry.stamp.clean = false;
        return Ok(Record::Entry(entry));
    }
    Ok(Record::Intent {
        path,
        chunks: Vec::new(),
    })
}

/// Root digest and number of entries of a replica.
///
/// # Errors
/// The replica is damaged or cannot be read.
pub fn root_of(snapshot: &Snapshot) -> Result<([u8; 32], u64)> {
    let mut hasher = blake3::Hasher::new_derive_key(ROOT_CONTEXT);
    let mut count = 0;
    for entry in snapshot.iter() {
        hasher.update(&leaf(entry?)?);
        count += 1;
    }
    Ok((*hasher.finalize().as_bytes(), count))
}

const ROOT_CONTEXT: &str = "go2cloud tree root 1";

/// What the root digest covers of an entry: all but the source's stamp and the access time, which reading moves.
fn leaf(entry: Entry) -> Result<Vec<u8>> {
    let covered = (entry.path, without_atime(entry.meta), entry.node);
    postcard::to_stdvec(&covered).map_err(|error| Error::new(Kind::Corrupt, "encode an entry").because(error))
}

fn without_atime(meta: Meta) -> Meta {
    Meta {
        atime: Time::default(),
        ..meta
    }
}

/// Re-reads everything that `snapshot` lists below `root`. `found` is told what differs, `progress` the bytes read so far.
///
/// # Errors
/// The replica is damaged, the root cannot be opened, or what `found` and `progress` give. What cannot be read below the root is a
/// difference.
pub fn read_back(
    root: &Path,
    snapshot: &Snapshot,
    found: &mut dyn FnMut(EntryPath, Difference) -> Result<()>,
    progress: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Findings> {
    let directory =
        Directory::open_root(root).map_err(|error| Error::io("open the target directory", root, error))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut hasher = blake3::Hasher::new_derive_key(ROOT_CONTEXT);
    let mut findings = Findings::default();
    let mut entries = snapshot.iter();
    loop {
        let batch = entries.by_ref().take(BATCH).collect::<Result<Vec<Entry>>>()?;
        if batch.is_empty() {
            break;
        }
        let share = batch.len().div_ceil(threads);
        let compared: Vec<Vec<Compared>> = std::thread::scope(|scope| {
            let parts: Vec<_> = batch
                .chunks(share)
                .map(|part| scope.spawn(|| compare_all(&directory, part)))
                .collect();
            parts
                .into_iter()
                .map(|part| part.join().expect("comparing does not panic"))
                .collect()
        });
        for (entry, compared) in batch.into_iter().zip(compared.into_iter().flatten()) {
            findings.compared += 1;
            findings.bytes += compared.bytes;
            let Some(difference) = compared.difference else {
                hasher.update(&leaf(entry)?);
                continue;
            };
            let (meta, node) = compared.present.unwrap_or((Meta::default(), Node::Fifo));
            hasher.update(&leaf(Entry {
                meta,
                node,
                ..entry.clone()
            })?);
            found(entry.path, difference)?;
        }
        progress(findings.bytes)?;
    }
    findings.root = *hasher.finalize().as_bytes();
    Ok(findings)
}

/// One entry, compared.
#[derive(Default)]
struct Compared {
    /// What is there instead of an entry that differs.
    present: Option<(Meta, Node)>,
    difference: Option<Difference>,
    bytes: u64,
}

fn compare_all(root: &Directory, entries: &[Entry]) -> Vec<Compared> {
    let mut parent: Option<(EntryPath, Directory)> = None;
    let mut compare = |entry: &Entry| -> std::io::Result<Compared> {
        let Some((directory, name)) = entry.path.split() else {
            let open = root.open_beneath(&EntryPath::root())?;
            let stat = open.stat()?;
            let meta = capture::capture_meta_fd(open.as_fd(), &stat)?;
            return Ok(judge(entry, meta, Node::Directory, 0));
        };
        if parent
            .as_ref()
            .is_none_or(|(path, _)| path.as_bytes() != directory)
        {
            let path = EntryPath::parse(directory).map_err(std::io::Error::other)?;
            let opened = root.open_beneath(&path)?;
            parent = Some((path, opened));
        }
        let Some((_, directory)) = &parent else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let name = std::ffi::CString::new(name)?;
        let stat = directory.stat_entry(&name)?;
        let (node, bytes) = read_node(directory, &name, &stat, &entry.node)?;
        let meta = capture::capture_meta(directory, &name, &stat)?;
        Ok(judge(entry, meta, node, bytes))
    };
    let failed = |error: std::io::Error| Compared {
        difference: Some(Difference {
            part: Part::Content,
            what: error.to_string(),
        }),
        ..Compared::default()
    };
    entries
        .iter()
        .map(|entry| compare(entry).unwrap_or_else(failed))
        .collect()
}

fn judge(entry: &Entry, meta: Meta, node: Node, bytes: u64) -> Compared {
    let difference = if node != entry.node {
        Some(Difference {
            part: Part::Content,
            what: "content".to_owned(),
        })
    } else {
        metadata_difference(&meta, &entry.meta).map(|what| Difference {
            part: Part::Metadata,
            what: format!("metadata: {what}"),
        })
    };
    Compared {
        present: difference.is_some().then_some((meta, node)),
        difference,
        bytes,
    }
}

/// What differs of `present` metadata, if anything does: not the access time, which reading moves, and not a label that a
/// kernel which labels everything gives to what should have none.
pub fn metadata_difference(present: &Meta, expected: &Meta) -> Option<String> {
    let mut what = Vec::new();
    let mut note = |differs: bool, name: &str| {
        if differs {
            what.push(name.to_owned());
        }
    };
    note(present.mode != expected.mode, "mode");
    note(
        (present.uid, present.gid) != (expected.uid, expected.gid),
        "owner",
    );
    note(present.mtime != expected.mtime, "modification time");
    let is_labelled = expected.xattrs.iter().any(|xattr| xattr.name == LABEL);
    let xattrs = present.xattrs.iter();
    let xattrs = xattrs.filter(|xattr| is_labelled || xattr.name != LABEL);
    note(!xattrs.eq(&expected.xattrs), "extended attributes");
    note(present.flags != expected.flags, "inode flags");
    note(present.project != expected.project, "project id");
    (!what.is_empty()).then(|| what.join(", "))
}

/// What is at a name, its content read from the medium.
fn read_node(
    directory: &Directory,
    name: &std::ffi::CStr,
    stat: &Stat,
    expected: &Node,
) -> std::io::Result<(Node, u64)> {
    let node = match stat.kind {
        FileKind::Directory => Node::Directory,
        FileKind::Symlink => Node::Symlink {
            target: directory.read_link(name)?,
        },
        FileKind::Fifo => Node::Fifo,
        FileKind::Socket => Node::Socket,
        FileKind::CharDevice => Node::CharDevice { rdev: stat.rdev },
        FileKind::BlockDevice => Node::BlockDevice { rdev: stat.rdev },
        FileKind::File => {
            let chunk_log2 = if let Node::File(content) = expected {
                content.chunk_log2
            } else {
                0
            };
            let digest = digest_from_medium(directory, name, stat.size, chunk_log2)?;
            return Ok((
                Node::File(Content {
                    len: stat.size,
                    digest,
                    chunk_log2,
                }),
                stat.size,
            ));
        }
    };
    Ok((node, 0))
}

/// The digest of a file as its medium holds it: its pages are dropped from the cache first.
fn digest_from_medium(
    directory: &Directory,
    name: &std::ffi::CStr,
    len: u64,
    chunk_log2: u8,
) -> std::io::Result<Digest> {
    let (file, _) = directory.open_file(name)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut buffer = vec![0u8; READ_LEN.min(len.max(1) as usize)];
    let mut whole = blake3::Hasher::new();
    let mut digests = Vec::new();
    let mut at = 0;
    let chunk_len = 1u64 << chunk_log2;
    while at < len {
        let want = buffer.len().min((len - at) as usize);
        let count = rustix::io::pread(&file, &mut buffer[..want], at)?;
        if count == 0 {
            break;
        }
        if chunk_log2 == 0 {
            whole.update(&buffer[..count]);
            at += count as u64;
            continue;
        }
        // Chunks divide the buffer; a short read is repeated from the last whole chunk.
        let whole_chunks = if at + count as u64 >= len {
            count
        } else {
            count - count % chunk_len as usize
        };
        digests.extend(buffer[..whole_chunks].chunks(chunk_len as usize).map(Digest::of));
        at += whole_chunks.max(usize::from(whole_chunks == 0)) as u64;
    }
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    if chunk_log2 == 0 {
        Ok(Digest(*whole.finalize().as_bytes()))
    } else {
        Ok(digest_of_chunks(&digests))
    }
}
