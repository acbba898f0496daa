//! What a virtual environment is made of, as data: the steps of an image that install Python packages.
//!
//! Owns the key of an environment. What must stay true: whatever changes the contents of the environment
//! changes the key, and nothing else does.
//!
//! | in the key | not in the key |
//! |---|---|
//! | layout version, operating system, processor | version of uv, of accel |
//! | Python request | image name, base, apt, copy, host layers |
//! | packages, requirement files with their contents and those they include, lock files | credentials in URLs |
//! | index and installer options, installer, uv or poetry version asked for | environment of the user |
//! | `env` of the image that is in force at each step | |
//! | `[images.x.local] run` | |

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::requirements;
use crate::base::digest::{Digest, DigestBuilder};
use crate::base::files::FileError;
use crate::net::credentials;
use crate::plan::spec::{FileRef, ImageSpec, Installer, LayerSpec, PipOptions, Poetry, StepSpec, UvSync};

/// Raised when an environment made by an older accel must not be used any more.
const KEY_VERSION: &str = "accel environment 1";

/// Everything that is done to make one environment, in order.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    /// `None`: nobody named one.
    pub python: Option<String>,
    pub actions: Vec<Action>,
    pub key: Digest,
    /// Rebuilt once by each accel that asks for it.
    pub force_build: bool,
    /// Every file that was read, with the contents that the key stands for.
    pub files: Vec<FileRef>,
    pub uv_version: Option<String>,
}

/// One call of an installer.
#[derive(Debug, Clone)]
pub(super) struct Action {
    pub kind: ActionKind,
    pub env: IndexMap<String, String>,
    /// Where it was written: `accel.toml:31`, several when layers were joined.
    pub origins: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ActionKind {
    Install {
        packages: Vec<String>,
        requirements: Vec<PathBuf>,
        options: PipOptions,
        installer: Installer,
    },
    UvSync {
        sync: UvSync,
        pyproject: FileRef,
        lock: Option<FileRef>,
    },
    Poetry {
        poetry: Poetry,
        pyproject: FileRef,
        lock: Option<FileRef>,
    },
    PrivateRepos {
        repositories: Vec<String>,
        git_user: String,
        options: PipOptions,
    },
    /// A command of `[images.x.local] run`.
    Run(String),
}

impl Recipe {
    /// Reads only the files that requirement files include: everything else is in the spec.
    pub fn of(image: &ImageSpec, root: &Path) -> Result<Self, FileError> {
        let mut recipe = Self {
            python: image.python.clone(),
            actions: Vec::new(),
            key: Digest::of(b""),
            force_build: image.force_build,
            files: Vec::new(),
            uv_version: None,
        };
        let mut env = IndexMap::new();
        for layer in &image.layers {
            match &layer.step {
                StepSpec::Env(added) => env.extend(added.clone()),
                step if step.installs_python() => recipe.add(layer, &env, root)?,
                _ => {}
            }
        }
        for command in &image.local.run {
            recipe.actions.push(Action {
                kind: ActionKind::Run(command.clone()),
                env: env.clone(),
                origins: vec![format!("[images.{}.local] run", image.name)],
            });
        }
        recipe.key = recipe.digest();
        Ok(recipe)
    }

    fn add(
        &mut self,
        layer: &LayerSpec,
        image_env: &IndexMap<String, String>,
        root: &Path,
    ) -> Result<(), FileError> {
        let Some(kind) = self.kind(&layer.step, root)?.filter(|kind| !kind.is_empty()) else { return Ok(()) };
        self.force_build |= layer.force_build;
        let mut env = image_env.clone();
        env.extend(layer.variables());
        let action = Action { kind, env, origins: vec![layer.origin.clone()] };
        match self.actions.last_mut() {
            Some(last) if last.joins(&action) => last.join(action),
            _ => self.actions.push(action),
        }
        Ok(())
    }

    fn kind(&mut self, step: &StepSpec, root: &Path) -> Result<Option<ActionKind>, FileError> {
        let kind = match step {
            StepSpec::Pip { packages, requirements, options, installer } => {
                for file in requirements {
                    requirements::collect(file, root, &mut self.files)?;
                }
                self.want_uv(options.uv_version.as_ref());
                ActionKind::Install {
                    packages: packages.clone(),
                    requirements: requirements.iter().map(|file| file.path.clone()).collect(),
                    options: options.clone(),
                    installer: *installer,
                }
            }
            StepSpec::Pyproject { dependencies, options, installer, .. } => {
                self.want_uv(options.uv_version.as_ref());
                ActionKind::Install {
                    packages: dependencies.clone(),
                    requirements: Vec::new(),
                    options: options.clone(),
                    installer: *installer,
                }
            }
            StepSpec::UvSync { sync, pyproject, lock } => {
                self.want_uv(sync.uv_version.as_ref());
                ActionKind::UvSync { sync: sync.clone(), pyproject: pyproject.clone(), lock: lock.clone() }
            }
            StepSpec::Poetry { poetry, pyproject, lock } => ActionKind::Poetry {
                poetry: poetry.clone(),
                pyproject: pyproject.clone(),
                lock: lock.clone(),
            },
            StepSpec::PipPrivateRepos { repositories, git_user, options } => ActionKind::PrivateRepos {
                repositories: repositories.clone(),
                git_user: git_user.clone(),
                options: options.clone(),
            },
            _ => return Ok(None),
        };
        Ok(Some(kind))
    }

    fn want_uv(&mut self, version: Option<&String>) {
        self.uv_version = self.uv_version.take().or_else(|| version.cloned());
    }

    fn digest(&self) -> Digest {
        let mut digest = DigestBuilder::new(KEY_VERSION);
        let mut text = |text: &str| {
            digest.field(credentials::redact(text).as_bytes());
        };
        let platform = rustix::system::uname();
        text(&platform.sysname().to_string_lossy());
        text(&platform.machine().to_string_lossy());
        // The debug form of these types names every field, so two different values never look alike.
        text(&format!("{:?} {:?}", self.python, self.uv_version));
        for action in &self.actions {
            text(&action.kind.key_text());
            let mut env: Vec<_> = action.env.iter().collect();
            env.sort();
            text(&format!("{env:?}"));
        }
        for file in &self.files {
            text(&file.path.to_string_lossy());
            text(&String::from_utf8_lossy(&file.contents));
        }
        digest.finish()
    }

    /// `python 3.12, 3 packages`: what is about to be made, for people.
    pub fn summary(&self) -> String {
        let python = self.python.as_deref().map_or_else(|| "python".to_owned(), |v| format!("python {v}"));
        let sources = self.actions.iter().map(|action| action.kind.summary());
        std::iter::once(python).chain(sources).collect::<Vec<_>>().join(", ")
    }
}

impl Action {
    fn joins(&self, next: &Self) -> bool {
        let (
            ActionKind::Install { options, installer: Installer::Uv, .. },
            ActionKind::Install { options: next_options, installer: Installer::Uv, .. },
        ) = (&self.kind, &next.kind)
        else {
            return false;
        };
        options == next_options && self.env == next.env
    }

    fn join(&mut self, next: Self) {
        if let (
            ActionKind::Install { packages, requirements, .. },
            ActionKind::Install { packages: more, requirements: more_files, .. },
        ) = (&mut self.kind, next.kind)
        {
            packages.extend(more);
            requirements.extend(more_files);
            self.origins.extend(next.origins);
        }
    }
}

impl ActionKind {
    /// A project without dependencies, say: installers refuse to install nothing.
    fn is_empty(&self) -> bool {
        matches!(self, Self::Install { packages, requirements, .. } if packages.is_empty() && requirements.is_empty())
    }

    /// Contents of lock files enter as text; everything else as its debug form.
    fn key_text(&self) -> String {
        let contents = |file: &FileRef| String::from_utf8_lossy(&file.contents).into_owned();
        match self {
            Self::UvSync { sync, pyproject, lock } => {
                format!("uv {sync:?} {:?} {:?}", contents(pyproject), lock.as_ref().map(contents))
            }
            Self::Poetry { poetry, pyproject, lock } => {
                format!("poetry {poetry:?} {:?} {:?}", contents(pyproject), lock.as_ref().map(contents))
            }
            other => format!("{other:?}"),
        }
    }

    fn summary(&self) -> String {
        let count = |count: usize| match count {
            1 => "1 package".to_owned(),
            count => format!("{count} packages"),
        };
        match self {
            Self::Install { packages, requirements, .. } => {
                let mut parts: Vec<String> =
                    requirements.iter().map(|path| path.display().to_string()).collect();
                if !packages.is_empty() {
                    parts.insert(0, count(packages.len()));
                }
                parts.join(", ")
            }
            Self::UvSync { .. } => "uv.lock".to_owned(),
            Self::Poetry { .. } => "poetry.lock".to_owned(),
            Self::PrivateRepos { repositories, .. } => {
                format!("{} from private repositories", count(repositories.len()))
            }
            Self::Run(_) => "local commands".to_owned(),
        }
    }
}
