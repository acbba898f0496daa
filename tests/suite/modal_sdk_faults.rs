//! Faults as the official SDK meets them: what it survives, and what it makes of the rest.

use std::time::Duration;

use tonic::Code;

use crate::fake_modal::{AfterDeath, Death, FakeModal, Fate, Fault, Moment};
use crate::official_sdk::{Program, begin};

const PRINT: &str = "
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
process = sandbox.exec('seq', '20000')
text = process.stdout.read()
print(len(text), text == ''.join(f'{i}\\n' for i in range(1, 20001)), process.wait())
sandbox.terminate()
";

const PRINTED: &str = "108894 True 0\n";

#[test]
fn streams_that_break_off_are_resumed_byte_by_byte() {
    let modal = FakeModal::serve().lenient();
    modal.state().chunk = 5000;
    let Some(program) = Program::new(&modal) else { return };
    modal.fail(
        "TaskExecStdioRead",
        [
            Fault::CutAfter(7),
            Fault::CutAfter(30_000),
            Fault::code(Code::Unavailable),
            Fault::CutAfter(50_001),
        ],
    );
    assert_eq!(program.run(&begin(PRINT)), PRINTED);
    assert_eq!(modal.calls_of("TaskExecStdioRead").len(), 5);
}

#[test]
fn lost_answers_do_not_make_two_of_one() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    modal.fail("SandboxCreateV2", [Fault::AnswerLost, Fault::code(Code::Unavailable)]);
    modal.fail("TaskExecStart", [Fault::AnswerLost]);
    modal.fail("AppGetOrCreate", [Fault::Disconnected]);
    assert_eq!(program.run(&begin(PRINT)), PRINTED);
    assert_eq!(modal.calls_of("SandboxCreateV2").len(), 3);
    let sandboxes = modal.sandboxes();
    assert_eq!((sandboxes.len(), sandboxes[0].execs), (1, 1));
}

#[test]
fn the_server_slows_down_and_tokens_run_out() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    modal.fail("ImageGetOrCreate", [Fault::throttle(Code::ResourceExhausted, 0.2)]);
    modal.fail("TaskExecStdioRead", [Fault::code(Code::Unauthenticated)]);
    modal.fail("SandboxTerminateV2", [Fault::LateAnswer(Duration::from_millis(50))]);
    // Valid for less than the time within which a token counts as fresh.
    modal.state().token_life = 20;
    assert_eq!(program.run(&begin(PRINT)), PRINTED);
    let throttled: Vec<_> = modal
        .calls_of("ImageGetOrCreate")
        .iter()
        .map(|call| call.headers["x-throttle-retry-attempt"].clone())
        .collect();
    assert_eq!(throttled, ["0", "1", "0"]);
    assert_eq!(modal.calls_of("SandboxGetCommandRouterAccess").len(), 1);
}

#[test]
fn polite_and_impolite_ends_of_connections_are_survived() {
    let modal = FakeModal::with_connection_age(Duration::from_millis(300)).lenient();
    let Some(program) = Program::new(&modal) else { return };
    let slow = "
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
process = sandbox.exec('sh', '-c', 'for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.1; done')
print(process.stdout.read().split(), process.wait())
sandbox.terminate()
";
    let printed = "['1', '2', '3', '4', '5', '6', '7', '8'] 0\n";
    assert_eq!(program.run(&begin(slow)), printed);
    modal.fail("TaskExecStdioRead", [Fault::CutAfter(9), Fault::Disconnected]);
    assert_eq!(program.run(&begin(slow)), printed);
}

#[test]
fn a_sandbox_may_die_of_many_things() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    let deaths = [
        (Death::OutOfMemory, 137),
        (Death::MemoryManagerEviction, 137),
        (Death::InternalFailure, 1),
        (Death::Terminated, 137),
        (Death::Idle, 0),
        (Death::Unknown, 1),
    ];
    for (death, _) in deaths {
        modal.next_sandbox(Fate::Dies(Moment::Output(3), death));
    }
    let printed = program.run(&begin(
        "
for _ in range(6):
    sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
    process = sandbox.exec('sh', '-c', 'echo begun; sleep 600')
    try:
        process.wait()
        print('ended')
    except modal.exception.Error as error:
        print(type(error).__name__, end=' ')
    sandbox.wait(raise_on_termination=False)
    print(sandbox.returncode)
",
    ));
    let expected: Vec<_> = deaths.iter().map(|(_, code)| code.to_string()).collect();
    let codes: Vec<_> = printed.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(codes, expected, "{printed}");
    assert!(!printed.contains("ended"), "{printed}");
}

#[test]
fn places_may_be_refused_or_never_found() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    modal.gpu("H100", Fate::QueuedForever);
    modal.gpu("A100", Fate::Refused(tonic::Status::resource_exhausted("no A100 for you")));
    modal.gpu("L4", Fate::Dies(Moment::Start, Death::InitFailure));
    modal.gpu("T4", Fate::PlacedAfter(Duration::from_millis(700)));
    let script = begin(
        "
for gpu in ['A100', 'L4', 'T4', 'H100']:
    try:
        sandbox = modal.Sandbox.create(app=app, image=image, timeout=60, gpu=gpu)
        print(gpu, sandbox.exec('echo', 'runs').stdout.read(), end='')
        sandbox.terminate()
    except modal.exception.Error as error:
        print(gpu, type(error).__name__, error)
",
    );
    let printed = std::thread::scope(|scope| {
        let running = scope.spawn(|| program.run(&script));
        // Only the last one asks for its place again and again.
        modal.wait_for_calls_of("SandboxCreate", 4, || running.is_finished());
        let asked = modal.calls_of("SandboxGetTaskId").len();
        modal.wait_for_calls_of("SandboxGetTaskId", asked + 2, || running.is_finished());
        modal.alive().iter().for_each(|it| modal.kill(&it.id, Death::Terminated));
        running.join().unwrap()
    });
    insta::assert_snapshot!(printed, @r"
    A100 ResourceExhaustedError no A100 for you
    L4 ConflictError cannot mount the image
    T4 runs
    H100 ConflictError Sandbox already finished
    ");
}

#[test]
fn uploads_are_checked() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    std::fs::write(program.path().join("big.bin"), vec![1; 5_000_000]).unwrap();
    let script = begin(
        "
image = image.add_local_file('big.bin', '/workspace/big.bin')
sandbox = modal.Sandbox.create(app=app, image=image, timeout=60)
print(sandbox.exec('wc', '-c', '/workspace/big.bin').stdout.read().split()[0])
sandbox.terminate()
",
    );
    modal.fail("PUT", [Fault::WrongEtag, Fault::Http(503)]);
    assert_eq!(program.run(&script), "5000000\n");
    assert_eq!(modal.calls_of("PUT").len(), 3, "each refusal was noticed");
}

#[test]
fn forgotten_ids_and_strangers_are_refused() {
    let modal = FakeModal::serve();
    let Some(program) = Program::new(&modal) else { return };
    modal.state().credentials = Some(("ak-other".into(), "as-other".into()));
    let (succeeded, _, errors) = program.try_run(&begin(""));
    assert!(!succeeded && errors.contains("AuthError"), "{errors}");
    modal.state().credentials = None;
    let (succeeded, _, errors) = program.try_run(&begin(
        "
secret = modal.Secret.from_name('nowhere')
modal.Sandbox.create(app=app, image=image, secrets=[secret], timeout=60)
",
    ));
    assert!(!succeeded && errors.contains("Secret 'nowhere' not found"), "{errors}");
}

#[test]
fn accels_promises_are_asked_of_every_sandbox() {
    let modal = FakeModal::serve();
    let Some(program) = Program::new(&modal) else { return };
    program.run(&begin("modal.Sandbox.create(app=app, image=image, timeout=60)"));
    let complaint = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(modal)));
    let complaint = *complaint.unwrap_err().downcast::<String>().unwrap();
    assert!(complaint.contains("accel-lease"), "{complaint}");
}

#[test]
fn a_silent_router_answers_nobody() {
    let modal = FakeModal::serve().lenient();
    let Some(program) = Program::new(&modal) else { return };
    modal.state().after_death = AfterDeath::Silent;
    modal.next_sandbox(Fate::Dies(Moment::Exec, Death::InternalFailure));
    let printed = program.run(&begin(
        "
import asyncio
async def main():
    app = await modal.App.lookup.aio('sdk', create_if_missing=True)
    sandbox = await modal.Sandbox.create.aio(app=app, image=image, timeout=60)
    process = await sandbox.exec.aio('sleep', '600')
    try:
        await asyncio.wait_for(process.wait.aio(), 1)
    except asyncio.TimeoutError:
        print('silence', await sandbox.poll.aio())
asyncio.run(main())
",
    ));
    assert_eq!(printed, "silence 1\n");
}
