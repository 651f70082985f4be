//! One-click jobs: the reference has the structures but no page for the action, so there is no call.

use crate::schema::structure;
use crate::secret::Secret;

structure! {
    /// Parameters of a one-click job (its action CreateOneClickMigrationJobs has no page in the reference).
    pub struct OneClickMigrationJob {
        /// Source instance id.
        optional source_instance_id: String => "SourceInstanceId",
        /// Source system type; one of `linux`, `windows`.
        optional os_type: String => "OsType",
        /// Target region.
        optional target_region: String => "TargetRegion",
        /// Source private IP.
        optional private_ip: String => "PrivateIp",
        /// Unique id or serial number of the source, e.g. SerialNumber.
        optional uuid: String => "Uuid",
        /// Source instance name.
        optional source_instance_name: String => "SourceInstanceName",
        /// Source public IP.
        optional public_ip: String => "PublicIp",
        /// Source OS name in English.
        optional os_name: String => "OsName",
        /// Target instance id.
        optional target_instance_id: String => "TargetInstanceId",
        /// Image name.
        optional image_name: String => "ImageName",
        /// Network mode.
        optional mode: u64 => "Mode",
        /// Kind of target; one of `Image`, `Instance`.
        optional target_type: String => "TargetType",
    }
}

structure! {
    /// Result of creating a one-click job (its action has no page in the reference).
    pub struct OneClickMigrationJobInfo {
        /// Id of the one-click migration job this belongs to.
        optional one_click_job_id: String => "OneClickJobId",
        /// Public key for encrypting the user's API SecretId and SecretKey.
        optional api_public_key: String => "ApiPublicKey",
        /// Command script of the one-click migration.
        optional script: String => "Script",
        /// Temporary secret id.
        optional tmp_secret_id: String => "TmpSecretId",
        /// Temporary secret key.
        optional tmp_secret_key: Secret => "TmpSecretKey",
        /// Token of the temporary key.
        optional token: Secret => "Token",
    }
}
