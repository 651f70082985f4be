//! The CSM and CVM API: types, request signing and verifying.
//!
//! A control plane reads requests with [`types`], [`schema`], [`form`] and [`signing`], and answers with [`envelope`] and
//! the codes of [`code`]. Nothing here knows blocks, files or what a job means.

pub mod action;
pub mod code;
pub mod envelope;
pub mod form;
pub mod schema;
pub mod secret;
pub mod signing;
pub mod types;

pub use action::{Action, ActionName, Service};
pub use secret::Secret;
