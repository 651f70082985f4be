//! The error codes of the API.
//!
//! Every answer that is an error carries one of these and no other text in `Code`: what cannot be named here cannot be
//! answered. Codes are those of the published CSM and CVM references.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $text:literal, $meaning:literal;)*) => {
        /// A documented error code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each code's meaning is in the table")]
        pub enum Code { $($name,)* }

        impl Code {
            /// All codes, in the order of the reference.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The text on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// What the reference says the code means.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$name => $meaning,)* }
            }
        }
    };
}

codes! {
    InvalidSecretId = "AuthFailure.InvalidSecretId", "SecretId is not a cloud API key";
    MFAFailure = "AuthFailure.MFAFailure", "MFA check failed";
    SecretIdNotFound = "AuthFailure.SecretIdNotFound", "SecretId does not exist (deleted, disabled or mistyped)";
    SignatureExpire = "AuthFailure.SignatureExpire", "timestamp differs from server time by more than five minutes";
    SignatureFailure = "AuthFailure.SignatureFailure", "signature computed wrongly";
    TokenFailure = "AuthFailure.TokenFailure", "token is wrong";
    AuthUnauthorized = "AuthFailure.UnauthorizedOperation", "request not authorised by CAM";
    DryRunOperation = "DryRunOperation", "would have succeeded, but DryRun was set";
    FailedOperation = "FailedOperation", "operation failed";
    InternalError = "InternalError", "internal error";
    InvalidAction = "InvalidAction", "no such action";
    InvalidParameter = "InvalidParameter", "bad parameter";
    InvalidParameterValue = "InvalidParameterValue", "bad parameter value";
    LimitExceeded = "LimitExceeded", "quota exceeded";
    MissingParameter = "MissingParameter", "required parameter missing";
    NoSuchVersion = "NoSuchVersion", "no such API version";
    RequestLimitExceeded = "RequestLimitExceeded", "request rate above the limit";
    ResourceInUse = "ResourceInUse", "resource in use";
    ResourceInsufficient = "ResourceInsufficient", "not enough resources";
    ResourceNotFound = "ResourceNotFound", "resource not found";
    ResourceUnavailable = "ResourceUnavailable", "resource unavailable";
    UnauthorizedOperation = "UnauthorizedOperation", "operation not authorised";
    UnknownParameter = "UnknownParameter", "unknown parameter";
    UnsupportedOperation = "UnsupportedOperation", "operation not supported";
    UnsupportedProtocol = "UnsupportedProtocol", "protocol error; only GET and POST are supported";
    UnsupportedRegion = "UnsupportedRegion", "action does not support the region given";
    TargetInstanceRelatedUnFinishedJob = "FailedOperation.TargetInstanceRelatedUnFinishedJob", "target machine already belongs to an unfinished job";
    MigrateJobCreateFullCvmImage = "UnsupportedOperation.MigrateJobCreateFullCvmImage", "job cannot make a whole-machine image";
    IncrementalTimeGreaterThanOrEqualToSevenDays = "InvalidParameterValue.IncrementalTimeGreaterThanOrEqualToSevenDays", "incremental time is above 7 days (name says greater or equal)";
    InvalidLiveMigrateSourceServerId = "ResourceNotFound.InvalidLiveMigrateSourceServerId", "source server id does not exist";
    VpcIdMalformed = "InvalidParameterValue.VpcIdMalformed", "malformed VPC id";
    OsTypeMismatch = "FailedOperation.OsTypeMismatch", "operating system types differ";
    InvalidProgressNumber = "InvalidParameterValue.InvalidProgressNumber", "invalid progress value";
    VersionLowerThanRequired = "InvalidParameterValue.VersionLowerThanRequired", "tool version is below the required one";
    InstanceStateStopped = "UnsupportedOperation.InstanceStateStopped", "instance is stopped";
    PortUnreachable = "FailedOperation.PortUnreachable", "required port of the instance is not open";
    InstanceStateStopping = "UnsupportedOperation.InstanceStateStopping", "instance is stopping";
    InstanceStateTerminating = "UnsupportedOperation.InstanceStateTerminating", "instance is being destroyed";
    InstanceStateServiceLiveMigrate = "UnsupportedOperation.InstanceStateServiceLiveMigrate", "instance is in service migration; try later";
    TooLarge = "InvalidParameterValue.TooLarge", "value above the maximum";
    SystemDiskSizeTooLarge = "InvalidParameterValue.SystemDiskSizeTooLarge", "system disk too large";
    MigrateJobStatusNotSupport = "FailedOperation.MigrateJobStatusNotSupport", "job status does not allow the operation";
    MigrateJobNameExist = "InvalidParameterValue.MigrateJobNameExist", "job name already exists";
    InvalidJobId = "InvalidParameterValue.InvalidJobId", "job id not valid for this operation";
    InvalidTimeFormat = "InvalidParameterValue.InvalidTimeFormat", "bad time format";
    IncrementalTimeLessThanOneHour = "InvalidParameterValue.IncrementalTimeLessThanOneHour", "incremental time is below 1 hour";
    VpcIdSubnetIdNotMatch = "InvalidParameterValue.VpcIdSubnetIdNotMatch", "VpcId and SubnetId do not belong together";
    SourceServerExist = "InvalidParameterValue.SourceServerExist", "source server already exists";
    InstanceStateEnterServiceLiveMigrate = "UnsupportedOperation.InstanceStateEnterServiceLiveMigrate", "instance is in state ENTER_SERVICE_LIVE_MIGRATE";
    SubnetNotExist = "InvalidParameterValue.SubnetNotExist", "subnet does not exist";
    InvalidDataDiskIndex = "InvalidParameterValue.InvalidDataDiskIndex", "data disk index not on the source server";
    ParameterValueNotSupportValue = "InvalidParameterValue.ParameterValueNotSupportValue", "value not supported";
    TooShort = "InvalidParameterValue.TooShort", "value too short";
    NoAvailableIpAddressCountInSubnet = "FailedOperation.NoAvailableIpAddressCountInSubnet", "subnet has no free IP";
    ParameterValueContainsIllegalCharacter = "InvalidParameterValue.ParameterValueContainsIllegalCharacter", "value holds a forbidden character";
    SourceServerStatusNotSupport = "FailedOperation.SourceServerStatusNotSupport", "source server status does not allow the operation";
    InvalidIdentifierFormat = "InvalidParameterValue.InvalidIdentifierFormat", "Identifier is malformed";
    ParameterSourceServerExist = "InvalidParameter.SourceServerExist", "source server already registered";
    InstanceStateRunning = "UnsupportedOperation.InstanceStateRunning", "instance is running";
    MigrateJobLimitExceeded = "LimitExceeded.MigrateJobLimitExceeded", "number of jobs is at its maximum";
    InvalidInstanceIdNotFound = "ResourceNotFound.InvalidInstanceIdNotFound", "instance not found";
    InvalidRegionNotFound = "InvalidParameterValue.InvalidRegionNotFound", "invalid region";
    InstanceStateRebooting = "UnsupportedOperation.InstanceStateRebooting", "instance is rebooting";
    InvalidInstanceIdMalformed = "InvalidParameterValue.InvalidInstanceIdMalformed", "malformed instance id";
    InvalidTaskIdFormat = "InvalidParameterValue.InvalidTaskIdFormat", "malformed task id";
    JobIdNotExist = "FailedOperation.JobIdNotExist", "job id does not exist";
    SubnetIdMalformed = "InvalidParameterValue.SubnetIdMalformed", "malformed subnet id";
    MigrateNotSupportInstanceType = "InvalidParameterValue.MigrateNotSupportInstanceType", "instance type not supported for migration";
    DataDiskSizeTooLarge = "InvalidParameterValue.DataDiskSizeTooLarge", "data disk too large";
    TooLong = "InvalidParameterValue.TooLong", "value too long";
    InvalidSourceServerIdMalformed = "InvalidParameterValue.InvalidSourceServerIdMalformed", "malformed source server id";
    VersionFormatError = "InvalidParameterValue.VersionFormatError", "malformed version";
    InvalidLiveMigrateOnlineSourceServerId = "ResourceNotFound.InvalidLiveMigrateOnlineSourceServerId", "source server is not online";
    SourceServerRelatedUnFinishedJob = "FailedOperation.SourceServerRelatedUnFinishedJob", "source server belongs to an unfinished job";
    InvalidMigrateJobIdMalformed = "InvalidParameterValue.InvalidMigrateJobIdMalformed", "malformed job id";
    IncrementalTimeGreaterThanSevenDays = "InvalidParameterValue.IncrementalTimeGreaterThanSevenDays", "incremental time is above 7 days (on two action pages only, absent from the code list)";
    CvmInstanceIdNotFound = "InvalidInstanceId.NotFound", "instance not found";
    CvmInstanceIdMalformed = "InvalidInstanceId.Malformed", "malformed instance id";
    InvalidFilter = "InvalidFilter", "invalid filter";
    FilterValueLimitExceeded = "InvalidFilterValue.LimitExceeded", "too many filter values";
    InternalServerError = "InternalServerError", "internal error";
    ValueLimitExceeded = "InvalidParameterValue.LimitExceeded", "too many values";
    HostIdMalformed = "InvalidHostId.Malformed", "malformed dedicated host id";
    ZoneMismatchRegion = "InvalidZone.MismatchRegion", "zone does not exist";
    InvalidPermission = "InvalidPermission", "account may not do this";
    ValueRange = "InvalidParameterValue.Range", "value out of range";
    InstanceTypeMalformed = "InvalidInstanceType.Malformed", "malformed instance type";
    InvalidPeriod = "InvalidPeriod", "invalid period";
    VpcIpIsUsed = "VpcIpIsUsed", "private IP in use";
    VpcAddrNotInSubNet = "VpcAddrNotInSubNet", "private IP not in the subnet";
    ClientTokenTooLong = "InvalidClientToken.TooLong", "ClientToken above 64 bytes";
    HostIdNotFound = "InvalidHostId.NotFound", "dedicated host not found";
    InstancesQuotaLimitExceeded = "InstancesQuotaLimitExceeded", "instance quota exceeded";
    InvalidParameterCombination = "InvalidParameterCombination", "parameters do not go together";
    InvalidIpFormat = "InvalidParameter.InvalidIpFormat", "malformed private IP";
    AccountQualificationRestrictions = "AccountQualificationRestrictions", "account not qualified";
    InvalidPassword = "InvalidPassword", "password breaks the rules";
    InstanceNameTooLong = "InvalidInstanceName.TooLong", "instance name above 60 bytes";
    CloudDiskSoldOut = "InvalidCloudDisk.SoldOut", "cloud disk sold out";
    TradeUnknownError = "TradeUnknownError", "billing error";
    InstanceNotSupported = "InvalidInstance.NotSupported", "instance not supported";
    InvalidInstanceNotSupportedPrepaidInstance = "InvalidInstanceNotSupportedPrepaidInstance", "prepaid instance may not be returned";
    ImageQuotaLimitExceeded = "ImageQuotaLimitExceeded", "image quota exceeded";
    ImageNameDuplicate = "InvalidImageName.Duplicate", "image name exists";
    ParameterValueTooLarge = "InvalidParameter.ValueTooLarge", "parameter too long";
    TaskRunning = "MutexOperation.TaskRunning", "same task is running";
    InvalidParameterValueLimit = "InvalidParameterValue.InvalidParameterValueLimit", "bad value";
    InvalidParameterCoexistImageIdsFilters = "InvalidParameter.InvalidParameterCoexistImageIdsFilters", "ImageIds and Filters given together";
    NoAvailablePublicImage = "FailedOperation.NoAvailablePublicImage", "no public image to work with";
    NoQuotaForUserInstance = "FailedOperation.NoQuotaForUserInstance", "no instance quota";
    NoAvailableInstanceFamily = "FailedOperation.NoAvailableInstanceFamily", "no instance family";
    NoAvailableInstanceType = "FailedOperation.NoAvailableInstanceType", "no instance type";
    NoAvailableIpAddressCount = "FailedOperation.NoAvailableIpAddressCount", "subnet has no IP";
    NoAvailableCbs = "FailedOperation.NoAvailableCbs", "no cloud disk";
    NoCVMPermission = "FailedOperation.NoCVMPermission", "no instance permission";
    NoAvailableVpc = "FailedOperation.NoAvailableVpc", "no VPC";
    NoAvailableSubnet = "FailedOperation.NoAvailableSubnet", "no subnet";
    NoAvailableSecurityGroup = "FailedOperation.NoAvailableSecurityGroup", "no security group";
    ImageOsVersionUnsupported = "InvalidImageOsVersion.Unsupported", "OS version not supported";
    InvalidParameterUrlError = "InvalidParameter.InvalidParameterUrlError", "bad URL";
    UnsupportedToImportImage = "RegionAbilityLimit.UnsupportedToImportImage", "region does not import images";
    ImageOsTypeUnsupported = "InvalidImageOsType.Unsupported", "OS type not supported";
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A refused or failed request: what the caller is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// The code, which clients may rely on.
    pub code: Code,
    /// What is wrong and what to do about it, for people.
    pub message: String,
}

impl ApiError {
    /// An error with a text for people.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// The result of everything that answers a request.
pub type ApiResult<T> = Result<T, ApiError>;

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn codes_are_unique_and_explained() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        let count = texts.len();
        texts.dedup();
        assert_eq!(texts.len(), count, "a code is listed twice");
        assert!(
            Code::ALL.iter().all(|code| !code.meaning().is_empty()),
            "a code has no meaning"
        );
    }
}
