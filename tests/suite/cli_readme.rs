//! README.md is run: what it shows on a console is what a project made from its first accel.toml shows.

use crate::world::World;

const README: &str = include_str!("../../README.md");

/// The blocks that open with ```` ```kind ````.
fn blocks(kind: &str) -> Vec<String> {
    let opening = format!("```{kind}");
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in README.lines() {
        if line.starts_with("```") {
            let begins = !open && line == opening;
            if begins {
                found.push(String::new());
            }
            open = begins;
        } else if let (true, Some(block)) = (open, found.last_mut()) {
            block.push_str(line);
            block.push('\n');
        }
    }
    found
}

#[test]
fn it_opens_with_the_two_commands_that_ci_runs() {
    let first = blocks("sh first");
    assert_eq!(first.len(), 1);
    assert_eq!(
        first[0].lines().collect::<Vec<_>>(),
        ["cargo run -q -- -C examples/quickstart run test", "cargo test -q"]
    );
    assert!(README.find("```sh first").unwrap() < README.find("\n## ").unwrap());
    let ci = include_str!("../../.ci/run");
    assert!(ci.contains("sed -n '/^```sh first/,/^```/{/^```/d;p}' README.md"), "CI reads them from here");
}

#[test]
fn its_console_shows_what_happens() {
    let world = World::new().file("accel.toml", &blocks("toml")[0]).file("a.sh", "echo a\n");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_accel"), world.root().join("bin/accel")).unwrap();
    let consoles = blocks("console");
    assert_eq!(consoles.len(), 2);
    for console in consoles {
        let mut shown = String::new();
        for command in console.lines().filter_map(|line| line.strip_prefix("$ ")) {
            let run = world.program("sh").args(["-c", &format!("{command} 2>&1")]).run();
            shown.push_str(&format!("$ {command}\n{}", run.stdout_text()));
        }
        assert_eq!(shown, console);
    }
}

#[test]
fn its_files_pass_check() {
    for (number, toml) in blocks("toml").into_iter().enumerate() {
        let text = if number == 0 { toml } else { format!("version = 1\n{toml}") };
        World::new().file("accel.toml", &text).accel(["check"]).run().code(0).stderr("");
    }
}

#[test]
fn its_tables_name_only_commands_and_files_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for link in README.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(link.starts_with("https://") || root.join(link).exists(), "{link} does not exist");
    }
    let help = World::new().accel(["--help"]).run().stdout_text();
    for row in README.lines().filter_map(|line| line.strip_prefix("| `accel ")) {
        let command: String = row.chars().take_while(|c| c.is_ascii_lowercase()).collect();
        assert!(help.contains(&format!("\n  {command} ")), "no command {command}");
    }
}

#[test]
fn its_exit_codes_are_those_of_the_help() {
    let help = World::new().accel(["run", "--help"]).run().stdout_text();
    for row in README.lines().skip_while(|line| *line != "## Exit codes").skip(4) {
        let Some(codes) = row.strip_prefix("| ").and_then(|row| row.split(" |").next()) else { break };
        for code in codes.split(", ") {
            assert!(help.contains(&format!("\n  {code} ")), "{code} is not in the help");
        }
    }
}
