//! Help, version, usage errors, completions.

use crate::world::World;

#[test]
fn help_names_every_exit_code() {
    let help = World::new().accel(["--help"]).run();
    help.code(0).stderr("");
    for code in ["0 ", "n ", "1 ", "2 ", "124 ", "125 ", "126 ", "127 ", "128+n", "129 ", "130 ", "143 "] {
        help.stdout_has(&format!("\n  {code}"));
    }
}

#[test]
fn version_goes_to_stdout() {
    World::new()
        .accel(["--version"])
        .run()
        .code(0)
        .stdout(&format!("accel {}\n", env!("CARGO_PKG_VERSION")))
        .stderr("");
}

#[test]
fn an_unknown_command_is_a_usage_error_with_a_suggestion() {
    World::new().accel(["completion"]).run().code(2).stdout("").stderr_has("completions");
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        World::new().accel(["completions", shell]).run().code(0).stdout_has("accel").stderr("");
    }
}
