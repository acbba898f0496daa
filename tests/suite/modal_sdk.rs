//! The official SDK against the tests' Modal: a client that we did not write holds it honest.

use accel::backend::modal::wire::task_command_router as router_wire;

use crate::fake_modal::{Build, BuildEnd, FakeModal};
use crate::official_sdk::{Program, begin};
use crate::terminal::Terminal;
use crate::world::World;

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

#[test]
fn volumes_are_read_and_written_from_outside() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    std::fs::write(program.path().join("local.txt"), "from outside\n").unwrap();
    for version in [1, 2] {
        let printed = program.run(&begin(&format!(
            "
volume = modal.Volume.from_name('v{version}', create_if_missing=True, version={version})
with volume.batch_upload() as batch:
    batch.put_file('local.txt', '/in/file.txt')
sandbox = modal.Sandbox.create(app=app, image=image, volumes={{'/vol': volume}}, timeout=60)
process = sandbox.exec('sh', '-c', 'cat /vol/in/file.txt; echo made > /vol/out.txt')
print(process.stdout.read(), process.wait())
sandbox.reload_volumes()
sandbox.terminate()
print(sorted(entry.path for entry in volume.listdir('/', recursive=True)))
print(b''.join(volume.read_file('out.txt')))
volume.remove_file('out.txt')
print([entry.path for entry in volume.listdir('/')])
"
        )));
        assert_eq!(
            printed, "from outside\n 0\n['in', 'in/file.txt', 'out.txt']\nb'made\\n'\n['in']\n",
            "version {version}"
        );
    }
}

#[test]
fn a_terminal_has_a_size_and_joins_the_streams() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    let printed = program.run(&begin(
        "
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
process = sandbox.exec('sh', '-c', 'test -t 0 && test -t 1 && echo terminal; echo problem >&2; exit 5', pty=True)
print(repr(process.stdout.read()), process.wait())
sandbox.terminate()
",
    ));
    assert_eq!(printed, "'terminal\\r\\nproblem\\r\\n' 5\n");
}

#[test]
fn a_terminal_takes_keys_and_makes_signals_of_them() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    let printed = program.run(&begin(
        "
import os
os.environ.update(TERM='xterm-direct', COLORTERM='truecolor', TERM_PROGRAM='sdk')
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
script = 'stty -echo; echo $TERM $COLORTERM $TERM_PROGRAM; read -r line; echo got-$line; exec sleep 600'
process = sandbox.exec('sh', '-c', script, pty=True)
lines = iter(process.stdout)
print(next(lines).strip())
process.stdin.write('hello\\r')
process.stdin.drain()
print(next(lines).strip())
process.stdin.write('\\x03')
process.stdin.drain()
print(process.wait())
sandbox.terminate()
",
    ));
    assert_eq!(printed, "xterm-direct truecolor sdk\ngot-hello\n130\n");
}

#[test]
fn accel_describes_its_terminal_as_the_official_client_does() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    let kind = [("TERM", "xterm-direct"), ("COLORTERM", "truecolor"), ("TERM_PROGRAM", "some")];
    let set: String =
        kind.iter().map(|(name, value)| format!("os.environ['{name}'] = '{value}'\n")).collect();
    program.run(&begin(&format!(
        "
import fcntl, os, pty, struct, termios
near, far = pty.openpty()
fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 120, 0, 0))
os.dup2(far, 0)
{set}
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
sandbox.exec('true', pty=True).wait()
sandbox.terminate()
"
    )));
    let described = |modal: &FakeModal| {
        let starts = modal.calls_of("TaskExecStart").into_iter();
        let starts = starts.map(|call| call.request::<router_wire::TaskExecStartRequest>());
        let with_terminal: Vec<_> = starts.filter(|start| start.pty_info.is_some()).collect();
        let [start] = with_terminal.as_slice() else { panic!("{with_terminal:?}") };
        (start.pty_info.clone(), start.stdout_config, start.stderr_config)
    };
    let official = described(&modal);
    modal.forget_calls();
    let mut world = World::new().file("accel.toml", "version = 1\n[jobs.it]\nrun = 'true'\n");
    for (name, value) in
        modal.variables().into_iter().chain(kind.map(|(name, value)| (name, value.to_owned())))
    {
        world = world.env(name, value);
    }
    Terminal::start_in(world, &["accel", "exec", "it", "--on", "modal", "--", "true"]).ends_with(0);
    assert_eq!(described(&modal), official);
}

#[test]
fn lives_and_commands_have_limits() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    let printed = program.run(&begin(
        "
sandbox = modal.Sandbox.create(app=app, image=image, timeout=2)
try:
    sandbox.exec('sleep', '600').wait()
except modal.exception.NotFoundError:
    print('gone')
print(sandbox.poll())
idle = modal.Sandbox.create(app=app, image=image, timeout=60, idle_timeout=1)
idle.wait()
print(idle.returncode)
main = modal.Sandbox.create('sh', '-c', 'exit 6', app=app, image=image, timeout=60)
main.wait()
print(main.returncode)
",
    ));
    assert_eq!(printed, "gone\n124\n0\n6\n");
    assert!(modal.alive().is_empty());
}

#[test]
fn ended_sandboxes_leave_no_process() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // A process that left its group keeps a connection open; it is gone when the connection ends.
    program.run(&begin(&format!(
        "
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
hold = \"import socket, time; s = socket.create_connection(('127.0.0.1', {port})); print('up', flush=True); time.sleep(600)\"
process = sandbox.exec('python3', '-c', f'import subprocess, sys; subprocess.run([sys.executable, \"-c\", {{hold!r}}], start_new_session=True)')
next(iter(process.stdout))
sandbox.terminate()
"
    )));
    let mut connection = listener.accept().unwrap().0;
    connection.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    assert_eq!(std::io::Read::read(&mut connection, &mut [0]).unwrap(), 0);
}

#[test]
fn round_trips_are_counted_as_the_official_client_makes_them() {
    let modal = FakeModal::serve().lenient();
    modal.delay(std::time::Duration::from_millis(100));
    let Some(program) = Program::new(&modal) else { return };
    std::fs::write(program.path().join("file.txt"), "x").unwrap();
    let script = begin(
        "
image = image.add_local_file('file.txt', '/workspace/file.txt')
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60, workdir='/workspace')
process = sandbox.exec('echo', 'hi')
print(process.stdout.read(), process.wait())
sandbox.terminate()
",
    );
    program.run(&script);
    modal.forget_calls();
    program.run(&script);
    // Ten with the termination that follows the exit code, for two layers.
    assert_eq!(modal.sequential_round_trips(), 9);
    modal.forget_calls();
    program.run(&script.replace("workdir=", "gpu='T4', workdir="));
    assert_eq!(modal.sequential_round_trips(), 10);
}

#[test]
fn packages_of_an_image_are_installed_where_asked() {
    let modal = FakeModal::serve().lenient().with_packages();
    let Some(program) = Program::new(&modal) else { return };
    let printed = program.run(
        "
import modal
app = modal.App.lookup('sdk', create_if_missing=True)
image = modal.Image.debian_slim('3.12').uv_pip_install('iniconfig==2.3.0').pip_install('six==1.17.0')
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
process = sandbox.exec('python', '-c', 'import iniconfig, six; print(six.__version__)')
print(process.stdout.read(), process.stderr.read(), process.wait())
sandbox.terminate()
",
    );
    assert_eq!(printed, "1.17.0\n  0\n");
}
