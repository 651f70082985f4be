//! Networks that the operator declared, for transit instances.
//!
//! Without a declaration every well-formed VPC and subnet is taken as given: a control plane without a network of its own
//! has nothing to compare them with.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use crate::code::{ApiError, ApiResult, Code};
use crate::world::World;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Vpc {
    vpc_id: String,
    subnets: Vec<Subnet>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Subnet {
    subnet_id: String,
    /// Addresses that transit instances may take.
    addresses: usize,
}

/// Declared networks.
#[derive(Clone, Debug, Default)]
pub struct Networks(Option<Vec<Vpc>>);

impl Networks {
    /// Reads a declaration: `[{"VpcId":"vpc-…","Subnets":[{"SubnetId":"subnet-…","Addresses":10}]}]`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read as that.
    pub fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let text =
            std::fs::read(path).with_context(|| format!("cannot read the networks in {}", path.display()))?;
        let vpcs = serde_json::from_slice(&text)
            .with_context(|| format!("{} does not declare networks", path.display()))?;
        Ok(Self(Some(vpcs)))
    }

    /// Checks a job's choice of network.
    ///
    /// # Errors
    ///
    /// When the subnet does not exist, lies in another VPC, or has no address left.
    pub fn check(&self, vpc_id: &str, subnet_id: &str, world: &World) -> ApiResult<()> {
        let Some(vpcs) = &self.0 else { return Ok(()) };
        if subnet_id.is_empty() {
            return Ok(());
        }
        let found = vpcs.iter().find_map(|vpc| {
            vpc.subnets
                .iter()
                .find(|subnet| subnet.subnet_id == subnet_id)
                .map(|subnet| (vpc, subnet))
        });
        let Some((vpc, subnet)) = found else {
            return Err(ApiError::new(
                Code::SubnetNotExist,
                format!("there is no subnet {subnet_id}"),
            ));
        };
        if !vpc_id.is_empty() && vpc.vpc_id != vpc_id {
            let message = format!("{subnet_id} belongs to {}, not to {vpc_id}", vpc.vpc_id);
            return Err(ApiError::new(Code::VpcIdSubnetIdNotMatch, message));
        }
        let taken = world
            .instances
            .values()
            .filter(|instance| instance.subnet_id == subnet_id)
            .count();
        let promised = world.jobs.values().filter(|job| {
            job.status.is_unfinished()
                && job.makes_image()
                && job.subnet_id == subnet_id
                && job.transit_instance_id.is_empty()
        });
        if taken + promised.count() >= subnet.addresses {
            let message = format!("all {} addresses of {subnet_id} are taken", subnet.addresses);
            return Err(ApiError::new(Code::NoAvailableIpAddressCountInSubnet, message));
        }
        Ok(())
    }
}
