//! The link between the peers: authenticated TLS 1.3 connections on one TCP port, each used in one direction.
//!
//! A session has one *control* connection (source to target), one *report* connection (target to source) and several
//! *data* connections (source to target). Because every connection carries frames in one direction only, reading and
//! writing never wait for each other, and a blocking thread per connection is all the scheduling there is.
//!
//! Beside sessions there are *errands* ([`errand`]): single questions, such as for a signature under a receipt.
//!
//! Nothing is said before both peers have proven, bound to the TLS session, that they know the migration's secret
//! ([`auth`]). The link neither retries nor reorders: a failed connection ends the session, and the session starts anew
//! from what the target's journal holds.

pub mod auth;
pub mod connect;
pub mod errand;
pub mod frame;
pub mod path;
pub mod tls;

pub use connect::{Accepted, Acceptor, SourceLink, connect};
pub use frame::{Frame, FrameReader, FrameWriter};
pub use tls::Strain;
