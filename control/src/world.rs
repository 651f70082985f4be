//! Everything that is remembered, in memory, and changes to it that happen wholly or not at all.
//!
//! The world is a cache of the database: it is loaded at start, and each accepted change goes to the database in the order
//! in which it was made here. A refused request leaves no trace: [`Transaction`] puts back what it touched.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::records::{Audit, Enrolment, Image, Instance, Job, Key, Record, Source, Table};

/// Records of one kind, by id.
pub type Map<R> = BTreeMap<String, Arc<R>>;

/// All records.
#[derive(Debug, Default)]
pub struct World {
    /// Migration jobs.
    pub jobs: Map<Job>,
    /// Source servers.
    pub sources: Map<Source>,
    /// Instances.
    pub instances: Map<Instance>,
    /// Images.
    pub images: Map<Image>,
    /// Access keys.
    pub keys: Map<Key>,
    /// Enrolment codes.
    pub enrolments: Map<Enrolment>,
    /// Marks of requests that must not be accepted twice, and the second after which each is forgotten.
    pub seen: HashMap<String, i64>,
}

/// A kind of record that the world holds.
pub trait Held: Record {
    /// Its map.
    fn map(world: &World) -> &Map<Self>;
    /// Its map, to be changed.
    fn map_mut(world: &mut World) -> &mut Map<Self>;
}

macro_rules! held {
    ($($record:ty => $field:ident),*) => {$(
        impl Held for $record {
            fn map(world: &World) -> &Map<Self> {
                &world.$field
            }
            fn map_mut(world: &mut World) -> &mut Map<Self> {
                &mut world.$field
            }
        }
    )*};
}

held!(Job => jobs, Source => sources, Instance => instances, Image => images, Key => keys, Enrolment => enrolments);

impl World {
    /// The jobs of a source that are not deleted.
    pub fn jobs_of<'w>(&'w self, source_id: &'w str) -> impl Iterator<Item = &'w Arc<Job>> {
        self.jobs
            .values()
            .filter(move |job| job.source_server_id == source_id)
    }

    /// Reads a stored document into its map.
    ///
    /// # Errors
    ///
    /// When the document is not one of the table's records.
    pub fn insert_document(&mut self, table: Table, document: &str) -> Result<(), serde_json::Error> {
        fn insert<R: Held>(world: &mut World, document: &str) -> Result<(), serde_json::Error> {
            let record: R = serde_json::from_str(document)?;
            R::map_mut(world).insert(record.id().to_owned(), Arc::new(record));
            Ok(())
        }
        match table {
            Table::Job => insert::<Job>(self, document),
            Table::Source => insert::<Source>(self, document),
            Table::Instance => insert::<Instance>(self, document),
            Table::Image => insert::<Image>(self, document),
            Table::Key => insert::<Key>(self, document),
            Table::Enrolment => insert::<Enrolment>(self, document),
        }
    }
}

/// One change, as the database gets it.
#[derive(Clone, Debug)]
pub enum Change {
    /// A record is added or replaced.
    Put {
        /// Its table.
        table: Table,
        /// Its id.
        id: String,
        /// Its document.
        document: String,
    },
    /// A record is removed.
    Remove {
        /// Its table.
        table: Table,
        /// Its id.
        id: String,
    },
    /// A mutating call is written down.
    Audit(Audit),
    /// A request must not be accepted again until the second given.
    Seen {
        /// Its mark.
        mark: String,
        /// Seconds since 1970.
        expires: i64,
    },
}

type Undo = Box<dyn FnOnce(&mut World) + Send>;

/// Changes that belong together.
pub struct Transaction<'w> {
    world: &'w mut World,
    undo: Vec<Undo>,
    changes: Vec<Change>,
}

impl<'w> Transaction<'w> {
    /// Begins; nothing is changed yet.
    pub fn new(world: &'w mut World) -> Self {
        Self {
            world,
            undo: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// The world as changed so far.
    #[must_use]
    pub fn world(&self) -> &World {
        self.world
    }

    /// A record, if there is one.
    #[must_use]
    pub fn get<R: Held>(&self, id: &str) -> Option<Arc<R>> {
        R::map(self.world).get(id).cloned()
    }

    /// Adds or replaces a record.
    pub fn put<R: Held>(&mut self, record: R) {
        let id = record.id().to_owned();
        self.changes.push(Change::Put {
            table: R::TABLE,
            id: id.clone(),
            document: record.document(),
        });
        let old = R::map_mut(self.world).insert(id.clone(), Arc::new(record));
        self.undo.push(Box::new(move |world| {
            match old {
                Some(old) => R::map_mut(world).insert(id, old),
                None => R::map_mut(world).remove(&id),
            };
        }));
    }

    /// Removes a record.
    pub fn remove<R: Held>(&mut self, id: &str) {
        if let Some(old) = R::map_mut(self.world).remove(id) {
            self.changes.push(Change::Remove {
                table: R::TABLE,
                id: id.to_owned(),
            });
            let id = id.to_owned();
            self.undo.push(Box::new(move |world| {
                R::map_mut(world).insert(id, old);
            }));
        }
    }

    /// Writes a call down, together with what it changed.
    pub fn audit(&mut self, audit: Audit) {
        self.changes.push(Change::Audit(audit));
    }

    /// Keeps the changes and hands them over for the database.
    pub fn finish(self) -> Vec<Change> {
        self.changes
    }

    /// Puts everything back.
    pub fn abandon(self) {
        for undo in self.undo.into_iter().rev() {
            undo(self.world);
        }
    }
}
