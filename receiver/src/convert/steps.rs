//! The steps themselves, one file each, in the order of [`super::step::STEPS`].

pub mod agents;
pub mod boot_install;
pub mod boot_menu;
pub mod cloud_init;
pub mod command_line;
pub mod fstab;
pub mod identity;
pub mod initramfs;
pub mod network;
pub mod resume;
pub mod selinux;
pub mod storage_identity;
