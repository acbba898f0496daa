//! The official SDK against the tests' Modal: a client that we did not write holds it honest.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fake_modal::{Build, BuildEnd, FakeModal};
use crate::python;

/// Runs a program of the official SDK; what it prints comes back. Its folder is where it runs.
struct Program<'a> {
    interpreter: PathBuf,
    modal: &'a FakeModal,
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, &'static str)>,
}

impl<'a> Program<'a> {
    fn new(modal: &'a FakeModal) -> Option<Self> {
        let interpreter = python::with_modal()?;
        Some(Self { interpreter, modal, folder: tempfile::tempdir().unwrap(), variables: Vec::new() })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, script: &str) -> String {
        let output = Command::new(&self.interpreter)
            .args(["-c", script])
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(self.modal.variables())
            .envs(self.variables.iter().copied())
            .output()
            .unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{stdout}\n{stderr}");
        stdout.into_owned()
    }
}

const BEGINNING: &str = "
import modal
app = modal.App.lookup('sdk', create_if_missing=True)
image = modal.Image.debian_slim('3.12').uv_pip_install('numpy')
";

fn begin(rest: &str) -> String {
    format!("{BEGINNING}{rest}")
}

#[test]
fn commands_run_with_input_output_and_exit_codes() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    let printed = program.run(&begin(
        "
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
process = sandbox.exec('sh', '-c', 'cat; echo problem >&2; exit 3')
process.stdin.write('one\\n')
process.stdin.drain()
process.stdin.write('two\\n')
process.stdin.write_eof()
process.stdin.drain()
print(repr(process.stdout.read()), repr(process.stderr.read()), process.wait())
process = sandbox.exec('sh', '-c', 'kill -TERM $$')
print(process.wait())
process = sandbox.exec('head', '-c', '300000', '/dev/zero', text=False)
print(len(process.stdout.read()), process.wait())
print(sandbox.poll())
sandbox.terminate()
sandbox.wait(raise_on_termination=False)
print(sandbox.poll())
",
    ));
    assert_eq!(printed, "'one\\ntwo\\n' 'problem\\n' 3\n143\n300000 0\nNone\n137\n");
}

#[test]
fn files_secrets_and_volumes_are_there() {
    let modal = FakeModal::serve().lenient();
    modal.state().part_length = 6 * 1024 * 1024;
    modal.secret("tokens", &[("TOKEN", "t-1"), ("OTHER", "o")]);
    let Some(program) = Program::new(&modal) else { return };
    std::fs::create_dir_all(program.path().join("tree/deep")).unwrap();
    std::fs::write(program.path().join("tree/small.txt"), "small\n").unwrap();
    std::fs::write(program.path().join("tree/deep/whole.bin"), vec![7; 5_000_000]).unwrap();
    std::fs::write(program.path().join("tree/deep/parts.bin"), vec![9; 13_000_000]).unwrap();
    let printed = program.run(&begin(
        "
image = image.env({'PLACE': '/workspace/deep'}).workdir('/workspace').add_local_dir('tree', '/workspace')
secret = modal.Secret.from_name('tokens', required_keys=['TOKEN'])
volume = modal.Volume.from_name('store', create_if_missing=True)
sandbox = modal.Sandbox.create(
    app=app, image=image, secrets=[secret, modal.Secret.from_dict({'OTHER': 'overridden'})], env={'MINE': 'm'},
    volumes={'/keep': volume}, timeout=60,
)
def run(*argv, **more):
    process = sandbox.exec(*argv, **more)
    print(process.stdout.read() + process.stderr.read(), process.wait(), sep='', end='.\\n')
run('sh', '-c', 'echo $TOKEN $OTHER $MINE $EXTRA; cat small.txt', env={'EXTRA': 'e'})
run('sh', '-c', 'cd $PLACE && wc -c *.bin')
run('cat', '/workspace/small.txt')
run('sh', '-c', 'echo kept > /keep/note; cat small.txt', workdir='/workspace')
sandbox.terminate()
again = modal.Sandbox.create(app=app, image=image, volumes={'/keep': volume}, timeout=60)
process = again.exec('cat', '/keep/note')
print(process.stdout.read())
again.terminate()
",
    ));
    assert_eq!(
        printed,
        "t-1 overridden m e\nsmall\n0.\n13000000 parts.bin\n 5000000 whole.bin\n18000000 total\n0.\n\
         small\n0.\nsmall\n0.\nkept\n\n"
    );
    assert_eq!(modal.calls_of("POST").len(), 1, "one file came in parts");
    assert_eq!(std::fs::read_to_string(modal.volume("store").unwrap().join("note")).unwrap(), "kept\n");
}

#[test]
fn a_gpu_takes_the_older_way() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    let printed = program.run(&begin(
        "
sandbox = modal.Sandbox.create(app=app, image=image, gpu='T4', timeout=60, env={'A': 'b'})
process = sandbox.exec('sh', '-c', 'echo $A; exit 9')
print(process.stdout.read(), process.wait())
sandbox.terminate()
print(sandbox.poll())
main = modal.Sandbox.create('sh', '-c', 'cat; echo end; exit 4', app=app, image=image, gpu='T4', timeout=60)
main.stdin.write('first\\n')
main.stdin.write_eof()
main.stdin.drain()
print(repr(main.stdout.read()))
try:
    main.wait()
finally:
    print(main.returncode)
",
    ));
    assert_eq!(printed, "b\n 9\n137\n'first\\nend\\n'\n4\n");
    assert_eq!(modal.calls_of("SandboxCreateV2").len(), 0);
    assert_eq!(modal.sandboxes().len(), 2);
}

#[test]
fn sandboxes_are_found_by_name_tag_and_id() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    let printed = program.run(&begin(
        "
sandbox = modal.Sandbox.create('sh', '-c', 'echo ready; sleep 600', app=app, image=image, name='one', timeout=60)
gpu = modal.Sandbox.create(app=app, image=image, gpu='L4', timeout=60)
sandbox.set_tags({'kind': 'cpu'})
print(modal.Sandbox.from_name('sdk', 'one').object_id == sandbox.object_id)
print(len(list(modal.Sandbox.list(app_id=app.app_id))))
print([found.object_id == sandbox.object_id for found in modal.Sandbox.list(tags={'kind': 'cpu'})])
found = modal.Sandbox.from_id(sandbox.object_id)
print(next(iter(found.stdout)), found.exec('echo', 'hi').stdout.read())
try:
    modal.Sandbox.create(app=app, image=image, name='one', timeout=60)
except modal.exception.AlreadyExistsError as error:
    print('taken')
sandbox.terminate()
gpu.terminate()
print(len(list(modal.Sandbox.list(app_id=app.app_id))))
",
    ));
    assert_eq!(printed, "True\n2\n[True]\nready\n hi\n\ntaken\n0\n");
}

#[test]
fn builds_stream_their_logs_and_may_fail() {
    let modal = FakeModal::serve().lenient();
    let log = |end| Build { logs: vec!["Step 1\n".into(), "fetching\n".into()], end };
    modal.state().builds = vec![
        ("numpy".into(), log(BuildEnd::Success)),
        ("false".into(), log(BuildEnd::Failure("exit status 1".into()))),
    ];
    let Some(program) = Program::new(&modal) else { return };
    let printed = program.run(&begin(
        "
with modal.enable_output():
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
print(sandbox.exec('echo', 'built').stdout.read())
sandbox.terminate()
try:
    modal.Sandbox.create(app=app, image=image.run_commands('false'), timeout=60)
except Exception as error:
    print(type(error).__name__, 'exit status 1' in str(error))
",
    ));
    assert!(printed.contains("fetching"), "{printed}");
    assert!(printed.ends_with("built\n\nImageBuildError True\n"), "{printed}");
    assert_eq!(modal.calls_of("ImageJoinStreaming").len(), 2);
}
