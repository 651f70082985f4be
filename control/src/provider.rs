//! Providers: what gives an instance its migration mode.
//!
//! A provider knows one way to make a receiver listen for a migration, and to end that: a process of this machine
//! ([`local`]), a receiver that runs already ([`fixed`]), or the operator's own commands ([`command`]). Everything else -
//! who may, when, for which job - is decided before a provider is asked. Every call may be repeated: a provider that finds
//! the work done says so.

mod command;
mod fixed;
mod local;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use csm::Secret;

use crate::records::{Image, Instance, Owner};

pub use command::CommandProvider;
pub use fixed::StaticProvider;
pub use local::{LocalOptions, LocalProvider};

/// Why a provider could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// This kind of instance cannot do that.
    #[error("{0}")]
    Unsupported(String),
    /// The receiver's port cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// It went wrong.
    #[error("{0}")]
    Failed(String),
}

/// What a provider does, in time.
pub type Doing<'p, T> = Pin<Box<dyn Future<Output = Result<T, ProviderError>> + Send + 'p>>;

/// Where a receiver listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address for the public network.
    pub ip: String,
    /// Address for the private network.
    pub lan_ip: String,
    /// TCP port.
    pub port: u16,
}

/// Why migration mode ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The copy is complete.
    Success,
    /// It is not.
    Failure,
}

/// Whether to look if the receiver can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// Look.
    Check,
    /// Take it as given.
    Assume,
}

/// Operations on a whole instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Switch on.
    Start,
    /// Switch off.
    Stop,
    /// Off and on.
    Reboot,
}

/// One way to give instances their migration mode.
pub trait Provider: Send + Sync {
    /// Makes what an instance needs before it can take a migration.
    fn create<'p>(&'p self, instance: &'p Instance, image: Option<&'p Image>) -> Doing<'p, ()>;
    /// Removes everything that belongs to an instance.
    fn destroy<'p>(&'p self, instance: &'p Instance) -> Doing<'p, ()>;
    /// Makes a receiver listen with this secret.
    fn enter<'p>(
        &'p self,
        instance: &'p Instance,
        secret: &'p Secret,
        reach: Reachability,
    ) -> Doing<'p, Endpoint>;
    /// Ends the receiver.
    fn exit<'p>(&'p self, instance: &'p Instance, outcome: Outcome) -> Doing<'p, ()>;
    /// Switches an instance.
    fn power<'p>(&'p self, instance: &'p Instance, power: Power) -> Doing<'p, ()>;
    /// Makes an image of an instance's disk.
    fn make_image<'p>(&'p self, instance: &'p Instance, image: &'p Image) -> Doing<'p, ()>;
    /// Removes an image, finished or not.
    fn discard_image<'p>(&'p self, image: &'p Image) -> Doing<'p, ()>;
    /// Fetches an image from elsewhere.
    fn import_image<'p>(&'p self, image: &'p Image, url: &'p str) -> Doing<'p, ()>;
    /// Where an instance's data lies on this machine, if it does.
    fn place(&self, instance: &Instance) -> Option<PathBuf>;
}

/// The providers of this control plane.
pub struct Providers {
    /// Receivers of this machine.
    pub local: LocalProvider,
    /// Receivers that run already.
    pub fixed: StaticProvider,
    /// The operator's commands, if there are any.
    pub command: Option<CommandProvider>,
    /// Which of them makes new instances.
    pub default: Owner,
}

impl Providers {
    /// The provider of an instance.
    ///
    /// # Errors
    ///
    /// When it is the operator's commands and there are none.
    pub fn of(&self, owner: Owner) -> Result<&dyn Provider, ProviderError> {
        match owner {
            Owner::Local => Ok(&self.local),
            Owner::Static => Ok(&self.fixed),
            Owner::Command => self
                .command
                .as_ref()
                .map(|provider| provider as &dyn Provider)
                .ok_or_else(|| {
                    ProviderError::Unsupported(
                        "this instance needs the control plane to be started with --hooks DIR".to_owned(),
                    )
                }),
        }
    }
}
