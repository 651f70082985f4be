//! What can go wrong in the data plane, and what the caller should do about it.

use std::fmt;
use std::path::PathBuf;

/// Result of a data-plane operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller can do about an error. Small and stable: callers branch on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The link broke or the peer is not there: connect again, durable data is kept.
    Retry,
    /// The peer refused us: wrong secret, other protocol version, other migration.
    Refused,
    /// The medium refused: disk full, read error, read-only file system.
    Medium,
    /// What was asked for cannot be done as asked: missing directory, bad file, contradicting options.
    Usage,
    /// The user or the control plane asked to stop.
    Stopped,
    /// A peer or a file on disk broke the format: never trusted, never repaired silently.
    Corrupt,
}

/// An error with its context: what was being done, to what, and what to do now.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    operation: String,
    subject: Option<PathBuf>,
    remedy: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that failed while doing `operation` (a phrase such as "connect to the target").
    pub fn new(kind: Kind, operation: impl Into<String>) -> Self {
        Self {
            kind,
            operation: operation.into(),
            subject: None,
            remedy: None,
            source: None,
        }
    }

    /// A failed system call: the kind follows from the error number.
    pub fn io(operation: impl Into<String>, subject: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let remedy = remedy_for(&source);
        let mut error = Self::new(Kind::Medium, operation).on(subject).because(source);
        error.remedy = remedy.map(str::to_owned);
        error
    }

    /// Names the file, device or directory concerned.
    #[must_use]
    pub fn on(mut self, subject: impl Into<PathBuf>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Says what the reader of the message should do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The message with all its causes, on one line.
    pub fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// What the caller can do.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.operation)?;
        if let Some(subject) = &self.subject {
            write!(f, " ({})", subject.display())?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

fn remedy_for(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::StorageFull => {
            Some("free space on that file system, then run the same command again: what is durable is kept")
        }
        K::QuotaExceeded => Some("raise the quota, then run the same command again: what is durable is kept"),
        K::PermissionDenied => Some("run as root"),
        K::NotFound => Some("check the path"),
        K::ReadOnlyFilesystem => Some("remount the file system read-write"),
        _ => None,
    }
}
