//! Waking from hibernation: a migrated system starts afresh, and a swap device that does not exist would be waited for,
//! by some versions for ever. Kernel command lines are the affair of [`super::command_line`].

use transfer::Result;

use super::fstab::each_line;
use crate::convert::draft::Draft;
use crate::convert::machine::Resolution;
use crate::convert::step::{Command, Context, Findings, Step};

/// Drops resume devices that the target does not have.
pub struct Resume;

impl Step for Resume {
    fn name(&self) -> &'static str {
        "resume"
    }

    fn plan(&self, context: &Context<'_>, draft: &mut Draft<'_>, _: &mut Findings) -> Result<Vec<Command>> {
        let is_dead = |name: &str| {
            matches!(
                context.machine.resolve(name),
                Resolution::Missing | Resolution::Unstable(_)
            )
        };
        let files = draft.files("/etc/initramfs-tools/conf.d", "");
        for file in files {
            draft.edit(&file, "the target does not have this swap device", |text| {
                each_line(text, |line| {
                    let name = line.trim().strip_prefix("RESUME=")?.trim_matches(['"', '\'']);
                    is_dead(name).then(|| "RESUME=none".to_owned())
                })
            })?;
        }
        Ok(Vec::new())
    }
}
