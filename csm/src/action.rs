//! The calls of the API: their names, the service and version each belongs to, and the answer each has.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::schema::{Described, Structure};
use crate::types as t;

/// A service of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    /// Server migration.
    Csm,
    /// Instances and images.
    Cvm,
}

impl Service {
    /// Both services.
    pub const ALL: [Self; 2] = [Self::Csm, Self::Cvm];

    /// Its name in signatures and in host names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csm => "csm",
            Self::Cvm => "cvm",
        }
    }

    /// The version of its API that these types follow.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Csm => "2021-09-15",
            Self::Cvm => "2017-03-12",
        }
    }

    /// The service called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.name() == name)
    }

    /// The service whose API has this version. The versions of the two differ, so a version names a service.
    #[must_use]
    pub fn from_version(version: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.version() == version)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request of the API.
pub trait Action: Serialize + DeserializeOwned + Described + Send + Sync {
    /// What answers it.
    type Response: Serialize + DeserializeOwned + Send;
    /// Its name.
    const NAME: ActionName;
}

macro_rules! actions {
    ($( $service:ident { $( $name:ident => $response:ident, )* } )*) => {
        /// The name of a call.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ActionName {
            $($( #[doc = concat!("`", stringify!($name), "`")] $name, )*)*
        }

        impl ActionName {
            /// All calls, those of server migration first.
            pub const ALL: &'static [Self] = &[$($( Self::$name, )*)*];

            /// The name on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $($( Self::$name => stringify!($name), )*)* }
            }

            /// The service it belongs to.
            #[must_use]
            pub const fn service(self) -> Service {
                match self { $($( Self::$name => Service::$service, )*)* }
            }

            /// What its request holds.
            #[must_use]
            pub const fn request(self) -> &'static Structure {
                match self { $($( Self::$name => &<t::$name as Described>::STRUCTURE, )*)* }
            }
        }

        $($( impl Action for t::$name {
            type Response = t::$response;
            const NAME: ActionName = ActionName::$name;
        } )*)*
    };
}

actions! {
    Csm {
        CreateMigrationJob => CreateMigrationJobResponse,
        DeleteMigrationJob => DeleteMigrationJobResponse,
        DescribeMigrationJobDeniedActions => DescribeMigrationJobDeniedActionsResponse,
        DescribeMigrationJobs => DescribeMigrationJobsResponse,
        ModifyMigrationJob => ModifyMigrationJobResponse,
        StartMigrationJob => StartMigrationJobResponse,
        StopMigrationJob => StopMigrationJobResponse,
        CreateImageForTransitInstance => CreateImageForTransitInstanceResponse,
        CreateTransitInstance => CreateTransitInstanceResponse,
        DescribeTransitInstance => DescribeTransitInstanceResponse,
        ExitLiveMigrateLhInstance => ExitLiveMigrateLhInstanceResponse,
        LiveMigrateLhInstance => LiveMigrateLhInstanceResponse,
        TerminateTransitInstance => TerminateTransitInstanceResponse,
        CreateSourceServer => CreateSourceServerResponse,
        DeleteSourceServer => DeleteSourceServerResponse,
        DescribeSourceServerDeniedActions => DescribeSourceServerDeniedActionsResponse,
        DescribeSourceServers => DescribeSourceServersResponse,
        ModifySourceServer => ModifySourceServerResponse,
    }
    Cvm {
        LiveMigrateInstance => LiveMigrateInstanceResponse,
        ExitLiveMigrateInstance => ExitLiveMigrateInstanceResponse,
        DescribeInstances => DescribeInstancesResponse,
        DescribeInstancesStatus => DescribeInstancesStatusResponse,
        StartInstances => StartInstancesResponse,
        StopInstances => StopInstancesResponse,
        RebootInstances => RebootInstancesResponse,
        RunInstances => RunInstancesResponse,
        TerminateInstances => TerminateInstancesResponse,
        DescribeImages => DescribeImagesResponse,
        CreateImage => CreateImageResponse,
        ImportImage => ImportImageResponse,
        DescribeRegions => DescribeRegionsResponse,
        DescribeZones => DescribeZonesResponse,
    }
}

impl ActionName {
    /// The call of `service` with this name. Names are compared exactly; the first letter is a capital.
    #[must_use]
    pub fn parse(service: Service, name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|action| action.service() == service && action.as_str() == name)
    }

    /// Whether the call only reads, so that sending it twice is the same as sending it once.
    #[must_use]
    pub fn is_read_only(self) -> bool {
        self.as_str().starts_with("Describe")
    }
}

impl fmt::Display for ActionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighteen_and_fourteen_calls() {
        let of = |service| {
            ActionName::ALL
                .iter()
                .filter(|action| action.service() == service)
                .count()
        };
        assert_eq!((of(Service::Csm), of(Service::Cvm)), (18, 14));
    }

    #[test]
    fn each_request_is_described_under_its_own_name() {
        for action in ActionName::ALL {
            assert_eq!(action.request().name, action.as_str());
            assert_eq!(
                ActionName::parse(action.service(), action.as_str()),
                Some(*action)
            );
        }
        assert_eq!(ActionName::parse(Service::Cvm, "CreateMigrationJob"), None);
    }
}
