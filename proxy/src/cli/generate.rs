//! `waylay completions` and `waylay man`: made from the same description as the arguments themselves.

use std::io;

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// Prints the completions of one shell.
pub(super) fn completions(shell: Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "waylay", &mut io::stdout());
}

/// Prints the man page: one page, a section for each subcommand.
pub(super) fn man() -> anyhow::Result<()> {
    let mut out = Vec::new();
    page(&mut out)?;
    io::Write::write_all(&mut io::stdout(), &out)?;
    Ok(())
}

fn page(out: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    let man = Man::new(command.clone()).section("8");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    section(out, &command)?;
    man.render_extra_section(out)?;
    man.render_version_section(out)
}

/// The options of each subcommand, one below the other.
fn section(out: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        if sub.has_subcommands() {
            section(out, sub)?;
            continue;
        }
        let name = sub.get_bin_name().unwrap_or(sub.get_name()).to_uppercase();
        io::Write::write_all(out, format!(".SH \"{name}\"\n").as_bytes())?;
        let about = sub.get_long_about().or(sub.get_about()).map(ToString::to_string).unwrap_or_default();
        io::Write::write_all(out, format!("{about}\n.PP\n").as_bytes())?;
        let mut options = Vec::new();
        Man::new(sub.clone()).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS\n", "");
        io::Write::write_all(out, options.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_man_page_has_every_subcommand_with_its_options() {
        let mut out = Vec::new();
        page(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for wanted in ["WAYLAY INSTALL", "WAYLAY BLOBS VERIFY", "WAYLAY OFF", "dry\\-run", "restart\\-runtime"] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
}
