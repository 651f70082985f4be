//! The error codes that the reference documents.
//!
//! A server answers with nothing else; a client must expect others, because services add codes without notice.

/// Codes that any call of either service may be answered with.
pub const COMMON: [&str; 26] = [
    "AuthFailure.InvalidSecretId",
    "AuthFailure.MFAFailure",
    "AuthFailure.SecretIdNotFound",
    "AuthFailure.SignatureExpire",
    "AuthFailure.SignatureFailure",
    "AuthFailure.TokenFailure",
    "AuthFailure.UnauthorizedOperation",
    "DryRunOperation",
    "FailedOperation",
    "InternalError",
    "InvalidAction",
    "InvalidParameter",
    "InvalidParameterValue",
    "LimitExceeded",
    "MissingParameter",
    "NoSuchVersion",
    "RequestLimitExceeded",
    "ResourceInUse",
    "ResourceInsufficient",
    "ResourceNotFound",
    "ResourceUnavailable",
    "UnauthorizedOperation",
    "UnknownParameter",
    "UnsupportedOperation",
    "UnsupportedProtocol",
    "UnsupportedRegion",
];

/// Codes of the server migration service.
pub const CSM: [&str; 50] = [
    "FailedOperation.JobIdNotExist",
    "FailedOperation.MigrateJobStatusNotSupport",
    "FailedOperation.NoAvailableIpAddressCountInSubnet",
    "FailedOperation.OsTypeMismatch",
    "FailedOperation.PortUnreachable",
    "FailedOperation.SourceServerRelatedUnFinishedJob",
    "FailedOperation.SourceServerStatusNotSupport",
    "FailedOperation.TargetInstanceRelatedUnFinishedJob",
    "InvalidParameter.SourceServerExist",
    "InvalidParameterValue.DataDiskSizeTooLarge",
    "InvalidParameterValue.IncrementalTimeGreaterThanOrEqualToSevenDays",
    "InvalidParameterValue.IncrementalTimeGreaterThanSevenDays",
    "InvalidParameterValue.IncrementalTimeLessThanOneHour",
    "InvalidParameterValue.InvalidDataDiskIndex",
    "InvalidParameterValue.InvalidIdentifierFormat",
    "InvalidParameterValue.InvalidInstanceIdMalformed",
    "InvalidParameterValue.InvalidJobId",
    "InvalidParameterValue.InvalidMigrateJobIdMalformed",
    "InvalidParameterValue.InvalidProgressNumber",
    "InvalidParameterValue.InvalidRegionNotFound",
    "InvalidParameterValue.InvalidSourceServerIdMalformed",
    "InvalidParameterValue.InvalidTaskIdFormat",
    "InvalidParameterValue.InvalidTimeFormat",
    "InvalidParameterValue.MigrateJobNameExist",
    "InvalidParameterValue.MigrateNotSupportInstanceType",
    "InvalidParameterValue.ParameterValueContainsIllegalCharacter",
    "InvalidParameterValue.ParameterValueNotSupportValue",
    "InvalidParameterValue.SourceServerExist",
    "InvalidParameterValue.SubnetIdMalformed",
    "InvalidParameterValue.SubnetNotExist",
    "InvalidParameterValue.SystemDiskSizeTooLarge",
    "InvalidParameterValue.TooLarge",
    "InvalidParameterValue.TooLong",
    "InvalidParameterValue.TooShort",
    "InvalidParameterValue.VersionFormatError",
    "InvalidParameterValue.VersionLowerThanRequired",
    "InvalidParameterValue.VpcIdMalformed",
    "InvalidParameterValue.VpcIdSubnetIdNotMatch",
    "LimitExceeded.MigrateJobLimitExceeded",
    "ResourceNotFound.InvalidInstanceIdNotFound",
    "ResourceNotFound.InvalidLiveMigrateOnlineSourceServerId",
    "ResourceNotFound.InvalidLiveMigrateSourceServerId",
    "UnsupportedOperation.InstanceStateEnterServiceLiveMigrate",
    "UnsupportedOperation.InstanceStateRebooting",
    "UnsupportedOperation.InstanceStateRunning",
    "UnsupportedOperation.InstanceStateServiceLiveMigrate",
    "UnsupportedOperation.InstanceStateStopped",
    "UnsupportedOperation.InstanceStateStopping",
    "UnsupportedOperation.InstanceStateTerminating",
    "UnsupportedOperation.MigrateJobCreateFullCvmImage",
];

/// Codes of the instance and image calls.
pub const CVM: [&str; 60] = [
    "AccountQualificationRestrictions",
    "FailedOperation.NoAvailableCbs",
    "FailedOperation.NoAvailableInstanceFamily",
    "FailedOperation.NoAvailableInstanceType",
    "FailedOperation.NoAvailableIpAddressCount",
    "FailedOperation.NoAvailablePublicImage",
    "FailedOperation.NoAvailableSecurityGroup",
    "FailedOperation.NoAvailableSubnet",
    "FailedOperation.NoAvailableVpc",
    "FailedOperation.NoCVMPermission",
    "FailedOperation.NoQuotaForUserInstance",
    "ImageQuotaLimitExceeded",
    "InstancesQuotaLimitExceeded",
    "InternalServerError",
    "InvalidAccount.InsufficientBalance",
    "InvalidAccount.UnpaidOrder",
    "InvalidClientToken.TooLong",
    "InvalidCloudDisk.SoldOut",
    "InvalidFilter",
    "InvalidFilterValue.LimitExceeded",
    "InvalidHostId.Malformed",
    "InvalidHostId.NotFound",
    "InvalidImageId.InShared",
    "InvalidImageId.IncorrectState",
    "InvalidImageId.Malformed",
    "InvalidImageId.NotFound",
    "InvalidImageId.TooLarge",
    "InvalidImageName.Duplicate",
    "InvalidImageOsType.Unsupported",
    "InvalidImageOsVersion.Unsupported",
    "InvalidInstance.NotSupported",
    "InvalidInstanceId.Malformed",
    "InvalidInstanceId.NotFound",
    "InvalidInstanceName.TooLong",
    "InvalidInstanceNotSupportedPrepaidInstance",
    "InvalidInstanceType.Malformed",
    "InvalidParameter",
    "InvalidParameter.InvalidIpFormat",
    "InvalidParameter.InvalidParameterCoexistImageIdsFilters",
    "InvalidParameter.InvalidParameterUrlError",
    "InvalidParameter.ValueTooLarge",
    "InvalidParameterCombination",
    "InvalidParameterValue",
    "InvalidParameterValue.InvalidParameterValueLimit",
    "InvalidParameterValue.LimitExceeded",
    "InvalidParameterValue.Range",
    "InvalidParameterValue.TooLong",
    "InvalidPassword",
    "InvalidPeriod",
    "InvalidPermission",
    "InvalidRegion.NotFound",
    "InvalidRegion.Unavailable",
    "InvalidZone.MismatchRegion",
    "MissingParameter",
    "MutexOperation.TaskRunning",
    "RegionAbilityLimit.UnsupportedToImportImage",
    "TradeUnknownError",
    "UnsupportedOperation.InstanceStateRunning",
    "VpcAddrNotInSubNet",
    "VpcIpIsUsed",
];

/// Whether the reference documents `code`, for any call.
#[must_use]
pub fn is_documented(code: &str) -> bool {
    [&COMMON[..], &CSM[..], &CVM[..]]
        .iter()
        .any(|list| list.binary_search(&code).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_as_the_search_needs() {
        for list in [&COMMON[..], &CSM[..], &CVM[..]] {
            assert!(list.is_sorted());
        }
        assert!(is_documented("RequestLimitExceeded") && is_documented("FailedOperation.JobIdNotExist"));
        assert!(!is_documented("FailedOperation.Whatever") && !is_documented(""));
    }
}
