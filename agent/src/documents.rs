//! Shell completions and man pages, made from the definition of the command line.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use crate::cli::{self, CompletionArgs, ManArgs};
use crate::exit::{self, Exit};
use crate::output::{complain, say};

/// Writes completions for a shell to standard output.
pub fn completions(args: &CompletionArgs) -> Exit {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut cli::definition(), "go2cloud", &mut text);
    match io::stdout().lock().write_all(&text) {
        Ok(()) => exit::DONE,
        Err(_) => exit::FAILED,
    }
}

/// Writes `go2cloud.1` and one page for each command.
pub fn man(args: &ManArgs) -> Exit {
    match pages(&args.folder) {
        Ok(count) => {
            say(&format!("{}: {count} pages", args.folder.display()));
            exit::DONE
        }
        Err(error) => {
            complain(&format!("go2cloud: {}: {error}", args.folder.display()));
            exit::FAILED
        }
    }
}

fn pages(folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let definition = cli::definition();
    let mut commands = vec![("go2cloud".to_owned(), definition.clone())];
    for command in definition.get_subcommands() {
        let name = format!("go2cloud-{}", command.get_name());
        commands.push((name, command.clone()));
    }
    for (name, command) in &commands {
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut page)?;
        fs::write(folder.join(format!("{name}.1")), page)?;
    }
    Ok(commands.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_flag_is_on_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(pages(folder.path()).unwrap(), 9);
        let page = fs::read_to_string(folder.path().join("go2cloud.1"))
            .unwrap()
            .replace('\\', "");
        for arg in cli::definition().get_arguments().filter(|arg| !arg.is_hide_set()) {
            let flag = format!("--{}", arg.get_long().unwrap());
            assert!(page.contains(&flag), "{flag}");
        }
        assert!(
            fs::read_to_string(folder.path().join("go2cloud-sync.1"))
                .unwrap()
                .contains("secret")
        );
    }
}
