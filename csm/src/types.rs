//! The requests, answers and structures of the API, under the names of its reference.
//!
//! Reading is tolerant: unknown members are ignored, missing or null ones become empty. What a request must hold
//! each structure describes ([`crate::schema`]); insisting on it is the server's work.

pub mod disk;
pub mod filter;
pub mod image;
pub mod instance;
pub mod job;
pub mod live_migrate;
pub mod one_click;
pub mod region;
pub mod run_instances;
pub mod source_server;
pub mod transit;

pub use disk::*;
pub use filter::*;
pub use image::*;
pub use instance::*;
pub use job::*;
pub use live_migrate::*;
pub use one_click::*;
pub use region::*;
pub use run_instances::*;
pub use source_server::*;
pub use transit::*;
