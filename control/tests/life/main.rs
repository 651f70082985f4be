//! Lives of jobs, sources, instances, keys and images, and answers to anything at all, through the program and its API only.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod any_request;
#[path = "../../src/store/tests/cluster.rs"]
mod cluster;
mod images;
mod instances;
mod jobs;
mod keys;
mod local;
mod plane;
mod service;
mod sources;
mod storage;
