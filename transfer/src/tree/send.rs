//! Senders: each owns one data connection, reads, hashes, compresses and sends.
//!
//! A sender takes batches of tasks from the queue, turns them into operations and sends a frame when enough are
//! together or nothing waits. The records of what it sent go to the baseline's log at the same time; they count only
//! when the target seals the round, and are thrown away when the session breaks before.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sys::aligned::AlignedBuffer;
use sys::page_cache::Residency;

use crate::compress::{Compressor, Governor};
use crate::courtesy::Courtesy;
use crate::error::Result;
use crate::limits;
use crate::link::{Frame, FrameWriter};
use crate::progress::Motion;
use crate::protocol::KIND_TREE;
use crate::source::counters::{self, Counters};
use crate::tree::baseline::Baseline;
use crate::tree::capture::{self, FileKind, Stat};
use crate::tree::entry::{Content, Digest, Entry, EntryPath, Node, Stamp, Time};
use crate::tree::long::{self, LongFile};
use crate::tree::operation::{Batch, Existing, Extent, Operation};
use crate::tree::replica::{Cursor, Record, Snapshot};
use crate::tree::round::{Pace, now};
use crate::tree::scan::version::ages_in;
use crate::tree::shared::Sharing;
use crate::tree::spool::Spool;
use crate::tree::tally::Tally;
use crate::tree::tasks::{Dispatcher, File, Item, Task};

/// Names that one operation speaks of: with the longest paths 4 MiB, which a frame that is not full has room for.
const NAMES_MAX: usize = 64;

/// What all senders of a session share.
pub struct Shared<'a> {
    /// Where tasks come from.
    pub dispatcher: &'a Dispatcher,
    /// Level of compression.
    pub governor: &'a Governor,
    /// Number of the next frame of the session.
    pub frames: &'a AtomicU64,
    /// Number of the next long file of the session.
    pub long_files: &'a AtomicU64,
    /// Frames of the present phase follow all frames below this number.
    pub phase_after: &'a AtomicU64,
    /// The baseline; its log takes the records.
    pub baseline: &'a Baseline,
    /// Links to make when their leaders are there.
    pub links: &'a Mutex<Option<Spool<Operation>>>,
    /// Counted as it goes.
    pub counters: &'a Counters,
    /// Where what could not be read, or did not hold still, is noted.
    pub tally: &'a Tally,
    /// Giving way to others.
    pub courtesy: &'a Courtesy,
    /// Blocks that files share.
    pub sharing: &'a Sharing,
    /// Begin of the round.
    pub t0: Time,
    /// Whether files may be changing.
    pub pace: Pace<'a>,
    /// What the target durably holds.
    pub snapshot: &'a Snapshot,
}

/// One sender.
pub struct Sender<'a, 'b> {
    shared: &'a Shared<'a>,
    writer: &'b mut FrameWriter,
    compressor: Compressor,
    cursor: Cursor,
    batch: Batch,
    records: Vec<Record>,
    /// Directory that the frame being gathered touched last.
    touched: Option<EntryPath>,
    /// The frame being gathered follows all frames below this number.
    after: u64,
    /// Chunks of long files in the frame being gathered.
    chunks: Vec<(Arc<LongFile>, u64)>,
    /// Items that are through when the frame being gathered is sent.
    finished: usize,
}

impl<'a, 'b> Sender<'a, 'b> {
    /// A sender on its connection.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(shared: &'a Shared<'a>, writer: &'b mut FrameWriter) -> Result<Self> {
        Ok(Self {
            shared,
            writer,
            compressor: Compressor::new()?,
            cursor: shared.snapshot.cursor(),
            batch: Batch::default(),
            records: Vec::new(),
            touched: None,
            after: 0,
            chunks: Vec::new(),
            finished: 0,
        })
    }

    /// Works until the queue is closed.
    ///
    /// # Errors
    /// The link is lost, or the baseline cannot be written.
    pub fn run(&mut self) -> Result<()> {
        self.shared.courtesy.enter();
        loop {
            let item = match self.shared.dispatcher.try_next() {
                Some(item) => item,
                None => {
                    self.flush()?;
                    let Some(item) = self.shared.dispatcher.next() else {
                        return Ok(());
                    };
                    item
                }
            };
            match item {
                Item::Tasks(tasks) => tasks.into_iter().try_for_each(|task| self.task(task))?,
                Item::Help(file) => self.help(&file)?,
            }
            self.finished += 1;
        }
    }

    fn task(&mut self, task: Task) -> Result<()> {
        self.shared.courtesy.wait();
        match task {
            Task::Entry(file) if file.stat.kind == FileKind::File => self.regular(file)?,
            Task::Entry(file) => self.special(&file)?,
            Task::Directory(path) => self.push(Operation::Directory { path }),
            Task::Remove(path) => {
                counters::add(&self.shared.counters.deleted, 1);
                self.push(Operation::Remove { path });
            }
            Task::Operation(operation) => self.push(*operation),
        }
        if self.batch.is_full() { self.send() } else { Ok(()) }
    }

    /// A regular file: whole, or the begin of a long one.
    fn regular(&mut self, file: Box<File>) -> Result<()> {
        let (data, before) = match file.directory.directory.open_file(&file.name) {
            Ok((data, before)) if (before.dev, before.ino) == (file.stat.dev, file.stat.ino) => {
                (data, before)
            }
            Ok(_) => {
                self.replaced(&file);
                return Ok(());
            }
            Err(error) => return self.unreadable(&file, "content", &error),
        };
        self.forget_other_names(&file)?;
        if before.size > limits::WHOLE_FILE_LEN_MAX {
            return match self.aged(&file, &data, before) {
                Ok(before) => self.begin_long(file, data, before),
                Err(error) => self.unreadable(&file, "content", &error),
            };
        }
        match self.read_whole(&file, &data, &before) {
            Ok((entry, extents)) => {
                if !file
                    .known
                    .as_ref()
                    .is_some_and(|known| same_content(known, &entry))
                {
                    let file_system = file.directory.file_system;
                    let sharing = self.shared.sharing;
                    sharing.note(data.as_fd(), &before, file_system, &file.path)?;
                }
                self.whole(&file, entry, extents)
            }
            Err(error) => self.unreadable(&file, "content", &error),
        }
    }

    /// Says of the other names of a file that may be about to be rewritten that their content is known no more.
    fn forget_other_names(&mut self, file: &File) -> Result<()> {
        if !file.rewrite {
            return Ok(());
        }
        for some in file.other_names.chunks(NAMES_MAX) {
            let paths = some.to_vec();
            self.push(Operation::Unknown { paths });
            if self.batch.is_full() {
                self.send()?;
            }
        }
        Ok(())
    }

    /// The status of a long file that is about to be read, for which it waits until further changes move its times. One that
    /// goes on changing is noted.
    fn aged(&self, file: &File, data: &OwnedFd, before: Stat) -> std::io::Result<Stat> {
        let Some(pause) = self.ages_in(&before) else {
            return Ok(before);
        };
        std::thread::sleep(pause);
        let before = Stat::of_fd(data.as_fd())?;
        if self.ages_in(&before).is_some() {
            self.shared.tally.leave(&file.path);
        }
        Ok(before)
    }

    /// For how long yet a further change could go unseen.
    fn ages_in(&self, stat: &Stat) -> Option<Duration> {
        ages_in(stat, now()).filter(|_| self.shared.pace.is_lively())
    }

    /// Reads a whole file into the batch. On an error the batch is as before.
    fn read_whole(
        &mut self,
        file: &File,
        data: &OwnedFd,
        before: &Stat,
    ) -> std::io::Result<(Entry, Vec<Extent>)> {
        let meta = capture::capture_meta_fd(data.as_fd(), before)?;
        let start = self.batch.data().len();
        let resident = Residency::of(data.as_fd(), before.size);
        // Equal when it is read twice, it was at rest in between; its times would not tell yet.
        let twice = self.ages_in(before).is_some();
        let read = read_extents(data, before, self.batch.data()).and_then(|extents| {
            let is_same = !twice || self.reads_the_same(data, before, start)?;
            let after = Stat::of_fd(data.as_fd())?;
            Ok((extents, is_same && after.unchanged_since(before)))
        });
        resident.drop_others(data.as_fd(), 0..before.size);
        let (extents, is_settled) = match read {
            Ok(read) => read,
            Err(error) => {
                self.batch.data().truncate(start);
                return Err(error);
            }
        };
        let bytes = &self.batch.data()[start..];
        counters::add(&self.shared.counters.bytes_read, bytes.len() as u64);
        let digest = long::digest_of_extents(&extents, bytes, before.size);
        let mut stamp = file.directory.stamp(before, self.shared.t0);
        if !is_settled {
            stamp.clean = false;
            self.shared.tally.moved(&file.path, Motion::Changed);
        }
        let content = Content {
            len: before.size,
            digest,
            chunk_log2: 0,
        };
        let entry = Entry {
            path: file.path.clone(),
            stamp,
            meta,
            node: Node::File(content),
        };
        Ok((entry, extents))
    }

    /// Whether the file still has the data that lie in the batch from `start` on.
    fn reads_the_same(&mut self, file: &OwnedFd, stat: &Stat, start: usize) -> std::io::Result<bool> {
        let data = self.batch.data();
        let end = data.len();
        let read = read_extents(file, stat, data);
        let is_same = data[start..end] == data[end..];
        counters::add(&self.shared.counters.bytes_read, (data.len() - end) as u64);
        data.truncate(end);
        read.map(|_| is_same)
    }

    fn whole(&mut self, file: &File, entry: Entry, extents: Vec<Extent>) -> Result<()> {
        counters::add(&self.shared.counters.bytes_done, entry.stamp.size);
        let known = file.known.as_ref();
        let operation = if known.is_some_and(|known| same_content(known, &entry)) {
            let len: usize = extents.iter().map(|extent| extent.len as usize).sum();
            let data = self.batch.data();
            data.truncate(data.len() - len);
            let same = known.is_some_and(|known| (known.stamp, &known.meta) == (entry.stamp, &entry.meta));
            if same && file.other_names.is_empty() {
                // It was read only because somebody has it open for writing.
                return Ok(());
            }
            Operation::Metadata(entry)
        } else {
            counters::add(&self.shared.counters.bytes_data, entry.stamp.size);
            let existing = if file.rewrite {
                Existing::Rewrite
            } else {
                Existing::Replace
            };
            Operation::File {
                entry,
                extents,
                existing,
                known: file.known.is_some(),
            }
        };
        self.entry_through(file, operation)
    }

    /// A symbolic link, device, pipe or socket.
    fn special(&mut self, file: &File) -> Result<()> {
        let directory = &file.directory.directory;
        let captured = capture::capture_meta(directory, &file.name, &file.stat).and_then(|meta| {
            let node = match file.stat.kind {
                FileKind::Symlink => Node::Symlink {
                    target: directory.read_link(&file.name)?,
                },
                FileKind::Fifo => Node::Fifo,
                FileKind::Socket => Node::Socket,
                FileKind::CharDevice => Node::CharDevice { rdev: file.stat.rdev },
                FileKind::BlockDevice => Node::BlockDevice { rdev: file.stat.rdev },
                FileKind::Directory | FileKind::File => return Err(std::io::ErrorKind::InvalidInput.into()),
            };
            Ok((meta, node))
        });
        match captured {
            Ok((meta, node)) => {
                let mut stamp = file.directory.stamp(&file.stat, self.shared.t0);
                // All of it was asked for by name. Who uses a pipe or a device moves its times, and nothing else.
                let holds_still = |after: Stat| match file.stat.kind {
                    FileKind::Symlink => after.unchanged_since(&file.stat),
                    kind => (after.ino, after.kind) == (file.stat.ino, kind),
                };
                if !directory.stat_entry(&file.name).is_ok_and(holds_still) {
                    stamp.clean = false;
                    self.shared.tally.moved(&file.path, Motion::Changed);
                }
                let entry = Entry {
                    path: file.path.clone(),
                    stamp,
                    meta,
                    node,
                };
                self.entry_through(file, Operation::Special(entry))
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                self.replaced(file);
                Ok(())
            }
            Err(error) => self.unreadable(file, "metadata", &error),
        }
    }

    /// Adds the operation that makes `file`, makes room for it where a directory stood, and lets its other names follow.
    fn entry_through(&mut self, file: &File, operation: Operation) -> Result<()> {
        if file
            .known
            .as_ref()
            .is_some_and(|known| matches!(known.node, Node::Directory))
        {
            self.push(Operation::Remove {
                path: file.path.clone(),
            });
        }
        counters::add(&self.shared.counters.sent, 1);
        if let Operation::File { entry, .. }
        | Operation::Metadata(entry)
        | Operation::Special(entry)
        | Operation::LongEnd { entry, .. } = &operation
        {
            self.links_follow(file, entry)?;
        }
        self.push(operation);
        Ok(())
    }

    fn links_follow(&self, file: &File, entry: &Entry) -> Result<()> {
        let mut links = self.shared.links.lock().expect("not poisoned");
        let Some(spool) = links.as_mut().filter(|_| !file.other_names.is_empty()) else {
            return Ok(());
        };
        for path in &file.other_names {
            let entry = Entry {
                path: path.clone(),
                ..entry.clone()
            };
            spool.push(&Operation::Link {
                leader: file.path.clone(),
                entry,
            })?;
        }
        Ok(())
    }

    /// Announces a long file and works on it; whoever is idle helps.
    fn begin_long(&mut self, file: Box<File>, data: OwnedFd, before: Stat) -> Result<()> {
        let meta = match capture::capture_meta_fd(data.as_fd(), &before) {
            Ok(meta) => meta,
            Err(error) => return self.unreadable(&file, "metadata", &error),
        };
        let Base {
            chunk_log2,
            digests: base,
            digest: base_digest,
            torn,
        } = self.base_of(&file, &before)?;
        let number = self.shared.long_files.fetch_add(1, Ordering::AcqRel);
        let stamp = file.directory.stamp(&before, self.shared.t0);
        let content = Content {
            len: before.size,
            digest: Digest::default(),
            chunk_log2,
        };
        let entry = Entry {
            path: file.path.clone(),
            // Nothing is proven before the end.
            stamp: Stamp {
                clean: false,
                ..stamp
            },
            meta,
            node: Node::File(content),
        };
        let keeps_inode = file.rewrite || !base.is_empty();
        let existing = if keeps_inode {
            Existing::Rewrite
        } else {
            Existing::Replace
        };
        if file
            .known
            .as_ref()
            .is_some_and(|known| matches!(known.node, Node::Directory))
        {
            self.push(Operation::Remove {
                path: file.path.clone(),
            });
        }
        self.push(Operation::LongBegin {
            file: number,
            entry,
            existing,
            base: (!base.is_empty()).then_some(base_digest),
            torn,
        });
        self.send()?;
        let begun_after = self.shared.frames.load(Ordering::Acquire);
        let long = Arc::new(LongFile::new(
            file,
            data,
            before,
            number,
            chunk_log2,
            base,
            begun_after,
        ));
        self.shared.dispatcher.offer_help(&long);
        self.help(&long)
    }

    /// What the target holds of a long file.
    fn base_of(&mut self, file: &File, before: &Stat) -> Result<Base> {
        let fresh = Base {
            chunk_log2: long::chunk_log2(before.size),
            ..Base::default()
        };
        let held = match &file.known {
            // Chunk digests of a file that was short in between are stale.
            Some(Entry {
                node: Node::File(content),
                stamp,
                ..
            }) if content.chunk_log2 > 0 && stamp.ino == before.ino => Some(content),
            Some(_) => return Ok(fresh),
            None => None,
        };
        let Some(known) = self.cursor.chunks(&file.path, before.ino)? else {
            return Ok(fresh);
        };
        let (chunk_log2, mut digests) = (known.chunk_log2, known.digests);
        let count = before.size.div_ceil(1 << chunk_log2);
        if count > limits::CHUNK_COUNT_DELTA_MAX || held.is_some_and(|held| held.chunk_log2 != chunk_log2) {
            return Ok(fresh);
        }
        if held.is_some_and(|held| held.len == before.size) {
            digests.truncate(count as usize);
            let digest = held.map_or_else(Digest::default, |held| held.digest);
            return Ok(Base {
                chunk_log2,
                digests,
                digest,
                torn: None,
            });
        }
        // Another length, or one that an interrupted session left: from where the two part, nothing is certain.
        let parting = held.map_or(before.size, |held| held.len.min(before.size)) >> chunk_log2;
        let torn_end = count.max(digests.len() as u64);
        digests.truncate(parting as usize);
        let torn = (torn_end > parting).then(|| (parting, torn_end - parting));
        Ok(Base {
            chunk_log2,
            digests,
            digest: Digest::default(),
            torn,
        })
    }

    /// Reads chunks of a long file until none are left.
    fn help(&mut self, long: &Arc<LongFile>) -> Result<()> {
        while let Some((first, count)) = long.take() {
            self.shared.courtesy.wait();
            let sent = match self.read_chunks(long, first, count) {
                Ok(sent) => sent,
                Err(error) => {
                    // The range counts as through; the file ends unclean and named.
                    self.shared.tally.skip(&long.task.path, "content", &error);
                    0
                }
            };
            if sent > 0 {
                self.after = self.after.max(long.begun_after);
                self.chunks.push((Arc::clone(long), count));
            } else if long.settle(count, 0) {
                self.end_long(long)?;
            }
            if self.batch.is_full() {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Reads a range of chunks into the batch; returns how many differ from the baseline.
    fn read_chunks(&mut self, long: &LongFile, first: u64, count: u64) -> std::io::Result<u64> {
        let mut run: Vec<crate::tree::operation::Chunk> = Vec::new();
        let (mut run_first, mut sent) = (first, 0);
        let mut failure = None;
        for index in first..first + count {
            let chunk = match long.read_chunk(index, self.batch.data(), &self.shared.counters.bytes_read) {
                Ok(chunk) => chunk,
                Err(error) => {
                    long.damaged.store(true, Ordering::Release);
                    failure = Some(error);
                    None
                }
            };
            match chunk {
                Some(chunk) => {
                    if run.is_empty() {
                        run_first = index;
                    }
                    counters::add(&self.shared.counters.bytes_data, u64::from(chunk.len));
                    sent += 1;
                    run.push(chunk);
                }
                None => self.push_chunks(long, run_first, &mut run),
            }
        }
        self.push_chunks(long, run_first, &mut run);
        long.forget(first, count);
        let bytes = (count << long.chunk_log2).min(long.before.size - (first << long.chunk_log2));
        counters::add(&self.shared.counters.bytes_done, bytes);
        match failure {
            Some(error) if sent == 0 => Err(error),
            Some(error) => {
                self.shared.tally.skip(&long.task.path, "content", &error);
                Ok(sent)
            }
            None => Ok(sent),
        }
    }

    fn push_chunks(&mut self, long: &LongFile, first: u64, run: &mut Vec<crate::tree::operation::Chunk>) {
        if run.is_empty() {
            return;
        }
        let chunks = std::mem::take(run);
        self.records.push(Record::Chunks {
            path: long.task.path.clone(),
            ino: long.before.ino,
            chunk_log2: long.chunk_log2,
            first,
            digests: chunks.iter().map(|chunk| chunk.digest).collect(),
        });
        self.batch.push(Operation::LongChunks {
            file: long.number,
            first,
            chunks,
        });
    }

    fn end_long(&mut self, long: &LongFile) -> Result<()> {
        let file = &*long.task;
        long.forget_all();
        let after = Stat::of_fd(long.data.as_fd());
        let mut stamp = file.directory.stamp(&long.before, self.shared.t0);
        if !after.is_ok_and(|after| after.unchanged_since(&long.before)) {
            stamp.clean = false;
            self.shared.tally.moved(&file.path, Motion::Changed);
        }
        stamp.clean &= !long.damaged.load(Ordering::Acquire);
        let meta = match capture::capture_meta_fd(long.data.as_fd(), &long.before) {
            Ok(meta) => meta,
            Err(error) => return self.unreadable(file, "metadata", &error),
        };
        let entry = Entry {
            path: file.path.clone(),
            stamp,
            meta,
            node: Node::File(long.content()),
        };
        if long.base.is_empty() {
            let file_system = file.directory.file_system;
            let sharing = self.shared.sharing;
            sharing.note(long.data.as_fd(), &long.before, file_system, &file.path)?;
        }
        self.after = self.after.max(long.ended_after());
        counters::add(&self.shared.counters.sent, 1);
        self.links_follow(file, &entry)?;
        self.push(Operation::LongEnd {
            file: long.number,
            entry,
        });
        Ok(())
    }

    fn push(&mut self, operation: Operation) {
        operation.note_touched(&mut self.touched, &mut self.records);
        match &operation {
            Operation::FinishDirectory(entry)
            | Operation::File { entry, .. }
            | Operation::Special(entry)
            | Operation::Metadata(entry)
            | Operation::Link { entry, .. }
            | Operation::LongEnd { entry, .. } => self.records.push(Record::Entry(entry.clone())),
            Operation::Remove { path } => self.records.push(Record::Remove { path: path.clone() }),
            Operation::Rename { from, to } => {
                self.records.push(Record::Rename {
                    from: from.clone(),
                    to: to.clone(),
                });
            }
            Operation::LongBegin { entry, torn, .. } => {
                self.records.extend(torn.map(|torn| Record::Intent {
                    path: entry.path.clone(),
                    chunks: vec![torn],
                }));
                self.records.push(Record::Entry(entry.clone()));
            }
            Operation::Unknown { paths } => {
                let intent = |path: &EntryPath| Record::Intent {
                    path: path.clone(),
                    chunks: Vec::new(),
                };
                self.records.extend(paths.iter().map(intent));
            }
            Operation::Directory { .. } | Operation::LongChunks { .. } | Operation::Share { .. } => {}
        }
        self.batch.push(operation);
    }

    /// Sends until nothing is left: ends of long files may come up while frames are sent.
    fn flush(&mut self) -> Result<()> {
        while !self.batch.is_empty() {
            self.send()?;
        }
        self.shared.dispatcher.done(std::mem::take(&mut self.finished));
        Ok(())
    }

    /// Sends what has been gathered as one frame.
    fn send(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let raw = self.batch.take_payload()?;
        self.touched = None;
        let raw_len = raw.len() as u32;
        let (codec, payload) = self.compressor.compress(raw, self.shared.governor)?;
        self.shared
            .baseline
            .with(|replica| replica.append(&self.records))?;
        self.records.clear();
        let after = std::mem::take(&mut self.after).max(self.shared.phase_after.load(Ordering::Acquire));
        let number = self.shared.frames.fetch_add(1, Ordering::AcqRel);
        let frame = Frame {
            kind: KIND_TREE,
            number,
            after,
            codec,
            raw_len,
            payload,
        };
        let wire = self.writer.send(&frame)?;
        counters::add(&self.shared.counters.bytes_wire, wire);
        self.shared.governor.learn(self.writer.strain());
        self.batch.reuse(frame.payload);
        for (long, count) in std::mem::take(&mut self.chunks) {
            if long.settle(count, number + 1) {
                self.end_long(&long)?;
            }
        }
        Ok(())
    }

    /// A file that cannot be read is named; one that vanished goes at the target, too.
    fn unreadable(&mut self, file: &File, what: &str, error: &std::io::Error) -> Result<()> {
        let motion = self.shared.tally.unreadable(&file.path, what, error);
        if motion == Some(Motion::Vanished) && file.known.is_some() {
            self.push(Operation::Remove {
                path: file.path.clone(),
            });
        }
        if motion.is_some() {
            self.leave_other_names(file);
        }
        Ok(())
    }

    /// Notes a file in the place of which the walk saw another one.
    fn replaced(&self, file: &File) {
        self.shared.tally.moved(&file.path, Motion::Replaced);
        self.leave_other_names(file);
    }

    /// The other names of a file were to be links to the one that could not be read; the file may still have them.
    fn leave_other_names(&self, file: &File) {
        for path in &file.other_names {
            self.shared.tally.leave(path);
        }
    }
}

/// What the target holds of a long file.
#[derive(Default)]
struct Base {
    chunk_log2: u8,
    /// Chunk by chunk; empty when nothing usable is known.
    digests: Vec<Digest>,
    /// Proves all of it, when it is complete.
    digest: Digest,
    /// Chunks that a change of length tears.
    torn: Option<(u64, u64)>,
}

/// Whether the target holds exactly this content under this very inode.
fn same_content(known: &Entry, present: &Entry) -> bool {
    match (&known.node, &present.node) {
        (Node::File(known_content), Node::File(content)) => {
            known_content == content && !content.digest.is_unknown() && known.stamp.ino == present.stamp.ino
        }
        _ => false,
    }
}

/// Reads a file's data, holes left out.
fn read_extents(file: &OwnedFd, stat: &Stat, data: &mut AlignedBuffer) -> std::io::Result<Vec<Extent>> {
    // Asked before anything is read: pages that reading brings into the cache look like data.
    let sparse = long::may_have_holes(file, stat);
    let mut extents = Vec::new();
    let mut at = 0;
    while let Some(range) = long::next_stretch(file, at, stat.size, sparse)? {
        let begin = data.len();
        data.append_from(file.as_fd(), range.start, (range.end - range.start) as usize)?;
        let len = (data.len() - begin) as u32;
        if len > 0 {
            extents.push(Extent {
                offset: range.start as u32,
                len,
            });
        }
        at = range.end;
    }
    Ok(extents)
}
