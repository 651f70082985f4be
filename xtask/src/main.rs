//! Repository chores: `cargo xtask COMMAND`.

mod layers;
mod migration_image;
mod packages;
mod tests_run;

use std::process::ExitCode;

const HELP: &str = "\
Repository chores

Usage: cargo xtask COMMAND

Commands:
  layers     Check that the crates depend on each other only as docs/ARCHITECTURE.md draws it
  packages   Install the Debian packages that the tests need (as root, where apt-get exists)
  test       Install packages, build the programs, run every test; further arguments go to the test runner
  vm-test    Convert and boot whole systems on loop devices and in virtual machines (as root, takes minutes)
  migration-image [--output DIR] [--receiver PROGRAM] [--settings FILE] [--level 1..19]
             Build kernel, initial RAM file system and disk image of the migration mode (needs no root)
  help       Print this
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_else(|| "help".to_owned());
    let done = match command.as_str() {
        "layers" => layers::check(),
        "packages" => packages::install(),
        "test" => tests_run::run(arguments),
        "vm-test" => tests_run::run_machines(),
        "migration-image" => migration_image::chore(arguments).map(|message| say(&message)),
        "help" | "--help" | "-h" => {
            say(HELP);
            Ok(())
        }
        other => Err(anyhow::anyhow!(
            "there is no chore {other:?}; see cargo xtask help"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "chores talk to whoever runs them")]
fn say(text: &str) {
    eprintln!("{}", text.trim_end());
}
