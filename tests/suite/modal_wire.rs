//! The schema of Modal's protocol: the generated code is fresh, and every line of the schema is what the
//! official package says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet, field_descriptor_proto};

use crate::python;

const SERVICES: [&str; 2] = ["modal.client", "modal.task_command_router"];

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn schema() -> FileDescriptorSet {
    let folder = repository().join("schemas");
    let mut compiler = protox::Compiler::new([&folder]).expect("the schema folder is readable");
    // Comments of the schema become the documentation of the generated types.
    compiler.include_imports(true).include_source_info(true);
    for file in ["modal.proto", "task_command_router.proto"] {
        if let Err(error) = compiler.open_file(file) {
            panic!("{error:?}");
        }
    }
    compiler.file_descriptor_set()
}

/// Generates the messages for the library, which names each call itself, and the server side for the tests' own
/// Modal.
fn generate(client: &Path, server: &Path) {
    let base = || {
        tonic_prost_build::configure()
            .build_transport(false)
            .btree_map(".")
            .bytes(".")
            .emit_rerun_if_changed(false)
    };
    base()
        .build_server(false)
        .build_client(false)
        .out_dir(client)
        .compile_fds(schema())
        .expect("client code");
    let mut builder = base().build_client(false).generate_default_stubs(true).out_dir(server);
    for (package, module) in
        [("modal.client", "client"), ("modal.task_command_router", "task_command_router")]
    {
        builder =
            builder.extern_path(format!(".{package}"), format!("::accel::backend::modal::wire::{module}"));
    }
    builder.compile_fds(schema()).expect("server code");
}

#[test]
fn generated_code_is_fresh() {
    let fresh = tempfile::tempdir().unwrap();
    let (client, server) = (fresh.path().join("client"), fresh.path().join("server"));
    std::fs::create_dir_all(&client).unwrap();
    std::fs::create_dir_all(&server).unwrap();
    generate(&client, &server);
    let kept = [
        (client, repository().join("src/backend/modal/generated")),
        (server, repository().join("tests/support/fake_modal/generated")),
    ];
    for (fresh, kept) in kept {
        for package in SERVICES {
            let name = format!("{package}.rs");
            let text = std::fs::read_to_string(fresh.join(&name)).unwrap();
            if std::env::var_os("ACCEL_REFRESH_WIRE").is_some() {
                std::fs::write(kept.join(&name), &text).unwrap();
            }
            let committed = std::fs::read_to_string(kept.join(&name)).unwrap_or_default();
            assert!(
                committed == text,
                "{} differs from a fresh generation: run ACCEL_REFRESH_WIRE=1 cargo test --test suite modal_wire",
                kept.join(&name).display()
            );
        }
    }
}

/// One line per fact: fields, enum values and calls, in words that both sides can make.
fn facts(set: &FileDescriptorSet) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    for file in set.file.iter().filter(|file| SERVICES.contains(&file.package())) {
        for message in &file.message_type {
            message_facts(&mut facts, file.package(), message);
        }
        for r#enum in &file.enum_type {
            enum_facts(&mut facts, file.package(), r#enum);
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |yes: bool| if yes { "stream " } else { "" };
                facts.insert(
                    format!("{}.{}/{}", file.package(), service.name(), method.name()),
                    format!(
                        "{}{} -> {}{}",
                        stream(method.client_streaming()),
                        method.input_type(),
                        stream(method.server_streaming()),
                        method.output_type()
                    ),
                );
            }
        }
    }
    facts
}

fn message_facts(facts: &mut BTreeMap<String, String>, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    for field in &message.field {
        let presence = if field.proto3_optional() {
            " optional".to_owned()
        } else {
            field.oneof_index.map_or(String::new(), |index| {
                format!(" oneof {}", message.oneof_decl[index as usize].name())
            })
        };
        let repeated = field.label() == field_descriptor_proto::Label::Repeated;
        facts.insert(
            format!("{name}.{}", field.name()),
            format!(
                "{} type {} {}{}{presence}",
                field.number(),
                field.r#type() as i32,
                field.type_name(),
                if repeated { " repeated" } else { "" }
            ),
        );
    }
    for nested in &message.nested_type {
        message_facts(facts, &name, nested);
    }
    for nested in &message.enum_type {
        enum_facts(facts, &name, nested);
    }
}

fn enum_facts(facts: &mut BTreeMap<String, String>, scope: &str, r#enum: &EnumDescriptorProto) {
    for value in &r#enum.value {
        facts.insert(format!("{scope}.{}:{}", r#enum.name(), value.name()), value.number().to_string());
    }
}

/// Prints the same facts from the descriptors of the installed package, one `key<TAB>value` per line.
const DUMP: &str = r"
from google.protobuf import descriptor_pb2
from modal_proto import api_pb2, task_command_router_pb2

def enum_facts(scope, enum):
    for value in enum.value:
        print(f'{scope}.{enum.name}:{value.name}\t{value.number}')

def message_facts(scope, message):
    name = f'{scope}.{message.name}'
    for field in message.field:
        presence = ''
        if field.proto3_optional:
            presence = ' optional'
        elif field.HasField('oneof_index'):
            presence = f' oneof {message.oneof_decl[field.oneof_index].name}'
        repeated = ' repeated' if field.label == 3 else ''
        print(f'{name}.{field.name}\t{field.number} type {field.type} {field.type_name}{repeated}{presence}')
    for nested in message.nested_type:
        message_facts(name, nested)
    for nested in message.enum_type:
        enum_facts(name, nested)

for module in (api_pb2, task_command_router_pb2):
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    for message in file.message_type:
        message_facts(file.package, message)
    for enum in file.enum_type:
        enum_facts(file.package, enum)
    for service in file.service:
        for method in service.method:
            parts = ['stream ' if method.client_streaming else '', method.input_type, ' -> ',
                     'stream ' if method.server_streaming else '', method.output_type]
            print(f'{file.package}.{service.name}/{method.name}\t' + ''.join(parts))
";

#[test]
fn schema_agrees_with_the_official_package() {
    let Some(interpreter) = python::with_modal() else { return };
    let printed = python::output(&interpreter, DUMP);
    let official: BTreeMap<_, _> = printed.lines().filter_map(|line| line.split_once('\t')).collect();
    let ours = facts(&schema());
    assert!(ours.len() > 500 && official.len() > ours.len(), "{} and {} facts", ours.len(), official.len());
    let wrong: Vec<_> = ours
        .iter()
        .filter(|(key, value)| official.get(key.as_str()) != Some(&value.as_str()))
        .map(|(key, value)| format!("{key}: here {value:?}, official {:?}", official.get(key.as_str())))
        .collect();
    assert!(wrong.is_empty(), "{} facts differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_comparison_can_fail() {
    let mut set = schema();
    let file = set.file.iter_mut().find(|file| file.package() == "modal.client").unwrap();
    let message = file.message_type.iter_mut().find(|message| message.name() == "RPCRetryPolicy").unwrap();
    message.field[0].number = Some(9);
    assert_ne!(facts(&set), facts(&schema()));
}

#[test]
fn every_call_of_the_library_is_one_of_the_schema() {
    let schema = facts(&schema());
    let methods =
        [accel::backend::modal::method::client::ALL, accel::backend::modal::method::task::ALL].concat();
    assert!(methods.len() > 50);
    // prost changes the case of a name; two names that differ in case alone do not occur.
    let name = |rust: &str| match rust.rsplit("::").next().unwrap() {
        "()" => "empty".to_owned(),
        name => name.to_lowercase(),
    };
    for method in methods {
        let signature = &schema[method.path.trim_start_matches('/')];
        let sides: Vec<_> = signature.split(" -> ").map(|side| name(&side.replace('.', "::"))).collect();
        assert_eq!(sides, [name((method.request)()), name((method.response)())], "{}", method.path);
    }
}
