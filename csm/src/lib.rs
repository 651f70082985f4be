//! The CSM and CVM API: types, request signing and verifying, and a typed client.
//!
//! The agent calls a control plane with [`client`]; a control plane reads requests with [`schema`], [`form`] and
//! [`signing`], and answers with [`envelope`] and the codes of [`code`]. [`dns`] looks names up without glibc.
//! Nothing here knows blocks, files or what a job means.

pub mod action;
pub mod client;
pub mod code;
pub mod credential;
pub mod dns;
pub mod envelope;
pub mod form;
pub mod schema;
pub mod secret;
pub mod signing;
pub mod types;

pub use action::{Action, ActionName, Service};
pub use client::{Client, Config, Endpoint};
pub use credential::Credential;
pub use secret::Secret;
