//! Collects everything that is wrong with a request, so that the user learns all of it at once.

use std::fmt::Display;

use crate::exit::{self, Exit};
use crate::output::complain;

/// What is wrong, each with what to do about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refusals(Vec<String>);

impl Refusals {
    /// Adds one.
    pub fn add(&mut self, refusal: impl Into<String>) {
        self.0.push(refusal.into());
    }

    /// Takes the value, or adds the error and gives nothing.
    pub fn take<T, E: Display>(&mut self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(error.to_string())).ok()
    }

    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The refusals, in the order in which they were found.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Prints all of them and gives the exit code for them.
    pub fn print(&self) -> Exit {
        for refusal in &self.0 {
            complain(&format!("go2cloud: {refusal}"));
        }
        complain("Nothing was done. `go2cloud --help` and `go2cloud sync --help` list all flags.");
        exit::USAGE
    }
}
