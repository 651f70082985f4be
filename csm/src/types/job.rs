//! Migration jobs: the seven calls of the job group and what they carry.

use crate::schema::structure;
use crate::types::disk::{DataDiskInfo, SystemDiskInfo};
use crate::types::filter::{DeniedAction, Filter};

structure! {
    /// Request: create an online migration job.
    pub struct CreateMigrationJob {
        /// Source server id.
        required source_server_id: String => "SourceServerId",
        /// System disk to migrate.
        required system_disk_info: SystemDiskInfo => "SystemDiskInfo",
        /// Network mode of the job.
        required mode: u64 => "Mode",
        /// Target region.
        required target_region: String => "TargetRegion",
        /// Job name.
        optional name: String => "Name",
        /// Kind of target; one of `Image`, `Instance`, `Lh-Image`, `Lh-Instance`.
        optional target_type: String => "TargetType",
        /// Name of the image to make.
        optional image_name: String => "ImageName",
        /// Data disks to migrate; Index must exist on the source server.
        list data_disks_info: Vec<DataDiskInfo> => "DataDisksInfo",
        /// Job description.
        optional description: String => "Description",
        /// Target instance id.
        optional instance_id: String => "InstanceId",
        /// Transfer configuration.
        optional migration_config_info: MigrationConfigInfo => "MigrationConfigInfo",
        /// Security group id of the transit instance.
        optional security_group: String => "SecurityGroup",
        /// VPC id of the transit instance.
        optional vpc_id: String => "VpcId",
        /// Scheduled start time of the job; `YYYY-MM-DDThh:mm:ssZ`, UTC.
        optional start_time: String => "StartTime",
        /// Subnet id of the transit instance.
        optional subnet_id: String => "SubnetId",
        /// Instance type of the transit instance.
        optional instance_type: String => "InstanceType",
        /// Whether automatic incremental migration is on.
        optional incremental_migration: u64 => "IncrementalMigration",
        /// End time of the automatic incremental migration.
        optional incremental_time: String => "IncrementalTime",
        /// Id of the one-click migration job this belongs to.
        optional one_click_job_id: String => "OneClickJobId",
        /// When the job starts; one of `Delayed`, `Immediate`, `Timed`.
        optional run_mode: String => "RunMode",
        /// Files or directories to leave out.
        optional exclude_path_list: String => "ExcludePathList",
        /// User intents set by the tool (disk grow/shrink settings).
        optional user_intent_list: String => "UserIntentList",
        /// Target product; one of `lh`, `cvm`.
        optional product: String => "Product",
    }
}

structure! {
    /// Answer of [`CreateMigrationJob`].
    pub struct CreateMigrationJobResponse {
        /// Migration job id.
        required job_id: String => "JobId",
    }
}

structure! {
    /// Request: delete a migration job.
    pub struct DeleteMigrationJob {
        /// Migration job id.
        required job_id: String => "JobId",
    }
}

structure! {
    /// Answer of [`DeleteMigrationJob`].
    pub struct DeleteMigrationJobResponse {}
}

structure! {
    /// Request: list the actions now denied for jobs.
    pub struct DescribeMigrationJobDeniedActions {
        /// List of migration job ids.
        required job_ids: Vec<String> => "JobIds",
    }
}

structure! {
    /// Answer of [`DescribeMigrationJobDeniedActions`].
    pub struct DescribeMigrationJobDeniedActionsResponse {
        /// Denied actions per job.
        required job_denied_action_set: Vec<JobDeniedAction> => "JobDeniedActionSet",
    }
}

structure! {
    /// Request: list the user's online migration jobs.
    pub struct DescribeMigrationJobs {
        /// Page size.
        optional limit: u64 => "Limit",
        /// Filters.
        list filters: Vec<Filter> => "Filters",
        /// Start index for paging.
        optional offset: u64 => "Offset",
    }
}

structure! {
    /// Answer of [`DescribeMigrationJobs`].
    pub struct DescribeMigrationJobsResponse {
        /// Jobs of this page.
        required migration_jobs: Vec<MigrationJob> => "MigrationJobs",
        /// Number of matching items.
        required total_count: u64 => "TotalCount",
    }
}

structure! {
    /// Request: change attributes of a job; also how the tool reports progress.
    pub struct ModifyMigrationJob {
        /// Migration job id.
        required job_id: String => "JobId",
        /// Job status; one of `PENDING`, `RUNNING`, `SUCCESS`, `FAILED`, `STOPPING`, `STOPPED`,
        /// `DELETING`, `DELETED`.
        optional status: String => "Status",
        /// Kind of target; changing Instance to Image needs ImageName in the same call; one of `Image`,
        /// `Instance`.
        optional target_type: String => "TargetType",
        /// Job description.
        optional description: String => "Description",
        /// Target instance id.
        optional instance_id: String => "InstanceId",
        /// Security group id of the transit instance.
        optional security_group: String => "SecurityGroup",
        /// Name of the image to make; no effect when the target is an instance.
        optional image_name: String => "ImageName",
        /// Scheduled start time of the job; `YYYY-MM-DDThh:mm:ssZ`, UTC.
        optional start_time: String => "StartTime",
        /// Progress of the job.
        optional progress: String => "Progress",
        /// Result information of the job.
        optional migrate_result: MigrateResult => "MigrateResult",
        /// Id of the image the job made.
        optional image_id: String => "ImageId",
        /// Instance type of the transit instance.
        optional instance_type: String => "InstanceType",
        /// Job name.
        optional name: String => "Name",
        /// Id of the transit instance when the target is an image.
        optional transit_instance_id: String => "TransitInstanceId",
        /// End time of the automatic incremental migration.
        optional incremental_time: String => "IncrementalTime",
        /// Latest message to report.
        optional last_message: String => "LastMessage",
        /// Last transfer speed; in KB/s.
        optional last_speed: String => "LastSpeed",
        /// Estimated time left; in minutes.
        optional remaining_time_estimate: String => "RemainingTimeEstimate",
    }
}

structure! {
    /// Answer of [`ModifyMigrationJob`].
    pub struct ModifyMigrationJobResponse {}
}

structure! {
    /// Request: start a job.
    pub struct StartMigrationJob {
        /// Migration job id.
        required job_id: String => "JobId",
    }
}

structure! {
    /// Answer of [`StartMigrationJob`].
    pub struct StartMigrationJobResponse {}
}

structure! {
    /// Request: stop a job.
    pub struct StopMigrationJob {
        /// Migration job id.
        required job_id: String => "JobId",
    }
}

structure! {
    /// Answer of [`StopMigrationJob`].
    pub struct StopMigrationJobResponse {}
}

structure! {
    /// An online migration job.
    pub struct MigrationJob {
        /// Kind of target; one of `Image`, `Instance`.
        optional target_type: String => "TargetType",
        /// Source server id.
        optional source_server_id: String => "SourceServerId",
        /// Security group id.
        optional security_group: String => "SecurityGroup",
        /// Target region.
        optional target_region: String => "TargetRegion",
        /// Progress.
        optional progress: f64 => "Progress",
        /// End time.
        optional end_time: String => "EndTime",
        /// Job status; one of `PENDING`, `RUNNING`, `SUCCESS`, `FAILED`, `STOPPING`, `STOPPED`,
        /// `DELETING`, `DELETED`.
        optional status: String => "Status",
        /// Update time.
        optional update_time: String => "UpdateTime",
        /// VPC id of the transit instance.
        optional vpc_id: String => "VpcId",
        /// Description.
        optional description: String => "Description",
        /// Target instance id.
        optional instance_id: String => "InstanceId",
        /// Transfer configuration.
        optional migration_config_info: MigrationConfigInfo => "MigrationConfigInfo",
        /// Migration job id.
        optional job_id: String => "JobId",
        /// Image id.
        optional image_id: String => "ImageId",
        /// Subnet id of the transit instance.
        optional subnet_id: String => "SubnetId",
        /// Instance type of the transit instance.
        optional instance_type: String => "InstanceType",
        /// Data disks migrated.
        required data_disks_info: Vec<DataDiskInfo> => "DataDisksInfo",
        /// Job name.
        optional name: String => "Name",
        /// Image name.
        optional image_name: String => "ImageName",
        /// Network mode.
        optional mode: u64 => "Mode",
        /// System disk migrated.
        optional system_disk_info: SystemDiskInfo => "SystemDiskInfo",
        /// Start time.
        optional start_time: String => "StartTime",
        /// Result, old form.
        optional migrate_result: MigrateResult => "MigrateResult",
        /// Creation time.
        optional create_time: String => "CreateTime",
        /// Id of the transit instance when the target is an image.
        optional transit_instance_id: String => "TransitInstanceId",
        /// Whether automatic incremental migration is on.
        optional incremental_migration: u64 => "IncrementalMigration",
        /// End time of the automatic incremental migration.
        optional incremental_time: String => "IncrementalTime",
        /// Result, new form.
        optional migrate_results: MigrateResults => "MigrateResults",
        /// Last reported messages.
        optional last_report_message: LastReportMessage => "LastReportMessage",
        /// Id of the one-click migration job this belongs to.
        optional one_click_job_id: String => "OneClickJobId",
        /// Run mode; one of `Delayed`, `Immediate`, `Timed`.
        optional run_mode: String => "RunMode",
        /// Estimated time left; in minutes.
        optional remaining_time_estimate: String => "RemainingTimeEstimate",
        /// Transfer speed; in KB/s.
        optional last_speed: String => "LastSpeed",
        /// Files or directories to leave out.
        optional exclude_path_list: String => "ExcludePathList",
        /// User intents set by the tool (disk grow/shrink settings).
        optional user_intent_list: String => "UserIntentList",
        /// Target product; one of `lh`, `cvm`.
        optional product: String => "Product",
    }
}

structure! {
    /// Transfer configuration of a job.
    pub struct MigrationConfigInfo {
        /// Strong verification; slows the transfer.
        optional checksum: bool => "Checksum",
        /// Speed limit; in KB/s.
        optional bandwidth_limit: String => "BandwidthLimit",
    }
}

structure! {
    /// Job result, old form.
    pub struct MigrateResult {
        /// Failing step, e.g. 'File Transmission Stopped' (sync paused), 'Failed
        /// exitLiveMigrateInstance' (leaving migration mode failed).
        optional state: String => "State",
        /// Outcome; known values `succ`, `normalFailed`, `malformedFailed`.
        optional result: String => "Result",
        /// Success or failure description.
        optional desc: String => "Desc",
    }
}

structure! {
    /// Job result, new form.
    pub struct MigrateResults {
        /// Failing step, e.g. 'File Transmission Stopped' (sync paused), 'Failed
        /// exitLiveMigrateInstance' (leaving migration mode failed).
        optional state: String => "State",
        /// Outcome; known values `succ`, `normalFailed`, `malformedFailed`.
        optional result: String => "Result",
        /// Success or failure description.
        optional desc: MigrateDesc => "Desc",
    }
}

structure! {
    /// Description of a migration result.
    pub struct MigrateDesc {
        /// Error text.
        optional error_message: String => "ErrorMessage",
        /// Error id.
        optional error_id: String => "ErrorId",
    }
}

structure! {
    /// Last reported messages.
    pub struct LastReportMessage {
        /// Messages.
        required messages: Vec<String> => "Messages",
    }
}

structure! {
    /// Denied actions of one job.
    pub struct JobDeniedAction {
        /// Migration job id.
        optional job_id: String => "JobId",
        /// Denied actions.
        required denied_actions: Vec<DeniedAction> => "DeniedActions",
    }
}
