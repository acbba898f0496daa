//! Contents, mounts, secrets, volumes and blobs.

use std::collections::BTreeMap;

use accel::backend::modal::wire::client as wire;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tonic::Status;
use wire::ObjectCreationType;

use super::state::{State, Volume, now};

pub fn timestamp() -> Option<prost_types::Timestamp> {
    #[allow(clippy::cast_possible_truncation, reason = "seconds since 1970 fit")]
    let seconds = now() as i64;
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn check_existence(
    state: &State,
    request: &wire::MountBatchedCheckExistenceRequest,
) -> wire::MountBatchedCheckExistenceResponse {
    let missing = request.sha256_hex_hashes.iter().filter(|hash| !state.contents.contains(*hash));
    wire::MountBatchedCheckExistenceResponse {
        missing_sha256_hex_hashes: missing.cloned().collect(),
        checked_at: timestamp(),
    }
}

pub fn put_file(
    state: &mut State,
    request: wire::MountPutFileRequest,
) -> Result<wire::MountPutFileResponse, Status> {
    use wire::mount_put_file_request::DataOneof;
    let hash = request.sha256_hex;
    let content = match request.data_oneof {
        None => {
            let exists = state.contents.contains(&hash);
            return Ok(wire::MountPutFileResponse { exists, checked_at: timestamp() });
        }
        Some(DataOneof::Data(data)) => data.clone(),
        Some(DataOneof::DataBlobId(id)) => {
            let blob = state.blobs.get(&id).ok_or_else(|| Status::not_found("Blob not found"))?;
            blob.clone()
        }
    };
    if hex(&Sha256::digest(&content)) != hash {
        state.violation(format!("content that is not that of {hash}"));
        return Err(Status::invalid_argument("Hash mismatch during upload."));
    }
    std::fs::write(state.content_path(&hash), &content)
        .map_err(|error| Status::internal(error.to_string()))?;
    state.contents.insert(hash);
    Ok(wire::MountPutFileResponse { exists: true, checked_at: timestamp() })
}

pub fn mount(
    state: &mut State,
    request: wire::MountGetOrCreateRequest,
) -> Result<wire::MountGetOrCreateResponse, Status> {
    let lacking = request.files.iter().find(|file| !state.contents.contains(&file.sha256_hex));
    if let Some(file) = lacking {
        let text = format!("no content for {}", file.filename);
        state.violation(text.clone());
        return Err(Status::failed_precondition(text));
    }
    if let Some(file) = request.files.iter().find(|file| !file.filename.starts_with('/')) {
        return Err(Status::invalid_argument(format!("not an absolute path: {}", file.filename)));
    }
    let mut files = request.files;
    files.sort_by(|a, b| a.filename.cmp(&b.filename));
    let mount_id = state.id("mo", &format!("{} {files:?}", request.deployment_name));
    let checksum = hex(&Sha256::digest(format!("{files:?}")));
    state.mounts.insert(mount_id.clone(), files);
    let handle_metadata = Some(wire::MountHandleMetadata { content_checksum_sha256_hex: checksum });
    Ok(wire::MountGetOrCreateResponse { mount_id, handle_metadata })
}

pub fn files(state: &State, mount: &str) -> Vec<wire::MountFile> {
    state.mounts.get(mount).cloned().unwrap_or_default()
}

pub fn secret(
    state: &mut State,
    request: wire::SecretGetOrCreateRequest,
) -> Result<wire::SecretGetOrCreateResponse, Status> {
    let name = request.deployment_name.clone();
    let values: BTreeMap<_, _> = match state.named_secrets.get(&name) {
        _ if name.is_empty() => request.env_dict.into_iter().collect(),
        Some(values) => values.clone(),
        // Other clients' programs name what they like; enough for a private registry.
        None if state.lenient => request
            .required_keys
            .iter()
            .map(String::as_str)
            .chain(["REGISTRY_USERNAME", "REGISTRY_PASSWORD"])
            .map(|key| (key.to_owned(), format!("value of {key}")))
            .collect(),
        None => return Err(Status::not_found(format!("Secret '{name}' not found in environment 'main'"))),
    };
    let missing: Vec<_> = request.required_keys.iter().filter(|key| !values.contains_key(*key)).collect();
    if !missing.is_empty() {
        let text = format!("Secret is missing key(s) {missing:?}");
        return Err(Status::failed_precondition(text));
    }
    let secret_id = state.id("st", &format!("{name} {values:?}"));
    let keys = values.keys().cloned().collect();
    state.secrets.insert(secret_id.clone(), values);
    let metadata = Some(wire::SecretMetadata { name, keys, ..Default::default() });
    Ok(wire::SecretGetOrCreateResponse { secret_id, metadata })
}

/// Variables of several sources; later ones win.
pub fn values(state: &State, sources: &[wire::SecretSource]) -> Result<BTreeMap<String, String>, Status> {
    use wire::secret_source::Source;
    let mut all = BTreeMap::new();
    for source in sources {
        match &source.source {
            Some(Source::SecretId(id)) => {
                let values = state.secrets.get(id).ok_or_else(|| Status::not_found("Secret not found"))?;
                all.extend(values.clone());
            }
            Some(Source::Env(map)) => all.extend(map.contents.clone()),
            None => {}
        }
    }
    Ok(all)
}

pub fn volume(
    state: &mut State,
    request: wire::VolumeGetOrCreateRequest,
) -> Result<wire::VolumeGetOrCreateResponse, Status> {
    let name = request.deployment_name;
    let id = if name.is_empty() { state.new_id("vo") } else { state.id("vo", &name) };
    if !state.volumes.contains_key(&id) {
        if request.object_creation_type == ObjectCreationType::Unspecified as i32 && !state.lenient {
            return Err(Status::not_found(format!("Volume '{name}' not found in environment 'main'")));
        }
        std::fs::create_dir_all(state.volume_folder(&id))
            .map_err(|error| Status::internal(error.to_string()))?;
        state.volumes.insert(id.clone(), Volume { name: name.clone(), version: request.version });
    }
    let version = state.volumes[&id].version;
    let metadata = Some(wire::VolumeMetadata { name, version, ..Default::default() });
    Ok(wire::VolumeGetOrCreateResponse { volume_id: id, version, metadata })
}

pub fn volume_files(
    state: &State,
    id: &str,
    path: &str,
    recursive: bool,
) -> Result<Vec<wire::FileEntry>, Status> {
    if !state.volumes.contains_key(id) {
        return Err(Status::not_found("Volume not found"));
    }
    let root = state.volume_folder(id);
    let mut entries = Vec::new();
    let mut folders = vec![root.join(path.trim_matches('/'))];
    while let Some(folder) = folders.pop() {
        let listed = std::fs::read_dir(&folder).map_err(|_| Status::not_found("No such directory"))?;
        for entry in listed.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if recursive && metadata.is_dir() {
                folders.push(entry.path());
            }
            let r#type = if metadata.is_dir() { 2 } else { 1 };
            let path = entry.path();
            let path = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
            entries.push(wire::FileEntry { path, r#type, size: metadata.len(), ..Default::default() });
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// One address for the range that was asked for; the server pads nothing.
pub fn volume_file(
    state: &State,
    request: &wire::VolumeGetFile2Request,
) -> Result<wire::VolumeGetFile2Response, Status> {
    const BLOCK: u64 = 8 * 1024 * 1024;
    let path = request.path.trim_start_matches('/');
    let file = state.volume_folder(&request.volume_id).join(path);
    let metadata = std::fs::metadata(&file).ok().filter(std::fs::Metadata::is_file);
    let size = metadata.ok_or_else(|| Status::not_found(format!("No such file: {path}")))?.len();
    let start = request.start.min(size);
    let end = if request.len == 0 { size } else { (start + request.len).min(size) };
    let mut get_urls = Vec::new();
    let mut from = start;
    while from < end {
        let to = ((from / BLOCK + 1) * BLOCK).min(end);
        get_urls.push(state.blob_url(&format!("volume/{}/{from}/{to}/{path}", request.volume_id)));
        from = to;
    }
    Ok(wire::VolumeGetFile2Response { get_urls, size, start, len: end - start })
}

pub fn blob(state: &mut State, request: &wire::BlobCreateRequest) -> wire::BlobCreateResponse {
    use wire::blob_create_response::UploadTypesOneof;
    let id = state.new_id("bl");
    let length = u64::try_from(request.content_length).unwrap_or(0);
    let upload = if length < state.part_length {
        let items = vec![state.blob_url(&format!("blob/{id}"))];
        UploadTypesOneof::UploadUrls(wire::UploadUrlList { items })
    } else {
        let parts = length.div_ceil(state.part_length);
        let upload_urls = (0..parts).map(|part| state.blob_url(&format!("part/{id}/{part}"))).collect();
        let completion_url = state.blob_url(&format!("complete/{id}"));
        #[allow(clippy::cast_possible_wrap, reason = "parts are small")]
        let part_length = state.part_length as i64;
        let item = wire::MultiPartUpload { part_length, upload_urls, completion_url };
        UploadTypesOneof::Multiparts(wire::MultiPartUploadList { items: vec![item] })
    };
    wire::BlobCreateResponse { blob_ids: vec![id], upload_types_oneof: Some(upload), ..Default::default() }
}

/// Joins the parts of a blob; returns the ETag of the whole.
pub fn join_parts(state: &mut State, id: &str) -> String {
    use md5::Md5;
    let keys: Vec<_> = state.parts.keys().filter(|(blob, _)| blob == id).cloned().collect();
    let parts: Vec<Bytes> = keys.iter().filter_map(|key| state.parts.remove(key)).collect();
    let digests: Vec<u8> = parts.iter().flat_map(|part| Md5::digest(part).to_vec()).collect();
    state.blobs.insert(id.to_owned(), parts.concat().into());
    format!("{}-{}", hex(&Md5::digest(&digests)), parts.len())
}

fn write_volume_file(folder: &std::path::Path, path: &str, content: &[u8]) -> Result<(), Status> {
    let place = folder.join(path.trim_start_matches('/'));
    let parent = place.parent().unwrap_or(folder);
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(&place, content))
        .map_err(|error| Status::internal(error.to_string()))
}

pub fn put_volume_files(state: &State, request: &wire::VolumePutFilesRequest) -> Result<(), Status> {
    let folder = state.volume_folder(&request.volume_id);
    for file in &request.files {
        let content = std::fs::read(state.content_path(&file.sha256_hex));
        let content = content.map_err(|_| Status::failed_precondition("content not uploaded"))?;
        write_volume_file(&folder, &file.filename, &content)?;
    }
    Ok(())
}

/// Asks for the blocks that it lacks; writes the files once there are none.
pub fn put_volume_blocks(
    state: &State,
    request: &wire::VolumePutFiles2Request,
) -> Result<wire::VolumePutFiles2Response, Status> {
    let mut missing_blocks = Vec::new();
    for (file_index, file) in (0..).zip(&request.files) {
        for (block_index, block) in (0..).zip(&file.blocks) {
            let hash = hex(&block.contents_sha256);
            if !state.blobs.contains_key(&hash) {
                let put_url = state.blob_url(&format!("blob/{hash}"));
                missing_blocks.push(wire::volume_put_files2_response::MissingBlock {
                    file_index,
                    block_index,
                    put_url,
                });
            }
        }
    }
    if missing_blocks.is_empty() {
        let folder = state.volume_folder(&request.volume_id);
        for file in &request.files {
            let blocks = file.blocks.iter().map(|block| state.blobs[&hex(&block.contents_sha256)].clone());
            let mut content = blocks.collect::<Vec<_>>().concat();
            content.resize(usize::try_from(file.size).unwrap_or(0), 0);
            write_volume_file(&folder, &file.path, &content)?;
        }
    }
    Ok(wire::VolumePutFiles2Response { missing_blocks })
}

pub fn remove_volume_file(state: &State, id: &str, path: &str) -> Result<(), Status> {
    let place = state.volume_folder(id).join(path.trim_start_matches('/'));
    std::fs::remove_file(&place)
        .or_else(|_| std::fs::remove_dir_all(&place))
        .map_err(|_| Status::not_found("No such file"))
}
