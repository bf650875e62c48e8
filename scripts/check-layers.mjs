// Dependencies point one way: bin -> lib -> native/node -> engine -> model -> ops <- cpu. This script reads every #include
// and import and prints file:line of each one that points elsewhere; model/ and engine/ must not name a device either.
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { pathToFileURL } from 'node:url'
import { root as repository } from './setup.mjs'

/** For each folder of native/: the folders that it may include. */
const nativeMayInclude = {
  core: ['core'],
  ops: ['core', 'ops'],
  model: ['core', 'ops', 'model'],
  engine: ['core', 'ops', 'model', 'engine'],
  cpu: ['core', 'ops', 'cpu'],
  cuda: ['core', 'ops', 'cuda'],
  node: ['core', 'ops', 'model', 'engine', 'cpu', 'cuda', 'node'],
}

/** For each part of the TypeScript: the parts it may import. Parts of lib/ are its folders and its single files. */
const scriptsMayImport = {
  bin: ['bin', 'lib'],
  lib: ['lib'],
}
/** These know nothing of models and streams: they are used by them. */
const leavesOfLib = ['tokenizer', 'weights', 'chat']
const upperFilesOfLib = ['index', 'model', 'stream']

const deviceNames = /\b(cpu|cuda|gpu|hip|metal|sse\d*|avx\w*|neon|amx)\b|create_cpu_backend/i
const devicelessFolders = ['model', 'engine']

/** Every violation under `root` as `{ file, line, message }`. */
export function checkLayers(root) {
  const found = []
  for (const file of sources(join(root, 'native'), /\.(cc|h|c|cu)$/)) found.push(...checkNative(root, file))
  for (const part of Object.keys(scriptsMayImport))
    for (const file of sources(join(root, part), /\.ts$/)) found.push(...checkScript(root, file))
  return found
}

function sources(folder, pattern) {
  try {
    return readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && pattern.test(entry.name))
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
  } catch (error) {
    if (error.code === 'ENOENT') return []
    throw error
  }
}

function checkNative(root, file) {
  const path = relative(root, file).split(sep).join('/')
  const folder = path.split('/')[1]
  const allowed = nativeMayInclude[folder]
  const found = []
  const report = (line, message) => found.push({ file: path, line: line + 1, message })
  if (!allowed) report(0, `native/${folder} is not one of the layers (${Object.keys(nativeMayInclude).join(', ')})`)
  const text = readFileSync(file, 'utf8')
  const raw = text.split('\n')
  const code = withoutComments(text).split('\n')
  code.forEach((line, index) => {
    // withoutComments also blanks string literals, so the path of an include is taken from the raw line.
    const include = /^\s*#\s*include\s*"/.test(line) ? /^\s*#\s*include\s*"([^"]+)"/.exec(raw[index])?.[1] : undefined
    const target = include?.split('/')[0]
    if (allowed && include?.includes('/') && !allowed.includes(target))
      report(index, `${folder} must not include "${include}" (it may include: ${allowed.join(', ')})`)
    if (include?.startsWith('.')) report(index, `"${include}": include from native/, not relatively`)
    if (devicelessFolders.includes(folder)) {
      const name = deviceNames.exec(include ? raw[index] : line)
      if (name) report(index, `${folder} names a device: ${name[0]}`)
    }
  })
  return found
}

function checkScript(root, file) {
  const path = relative(root, file).split(sep).join('/')
  const [part, second] = path.split('/')
  const found = []
  const report = (line, message) => found.push({ file: path, line: line + 1, message })
  const lines = readFileSync(file, 'utf8').split('\n')
  lines.forEach((line, index) => {
    if (/^\s*(\/\/|\*|\/\*)/.test(line)) return
    for (const specifier of specifiers(line)) {
      if (path !== 'lib/native.ts' && (specifier === 'node-gyp-build' || specifier.endsWith('.node')))
        report(index, `only lib/native.ts touches the addon, not "${specifier}"`)
      if (!specifier.startsWith('.')) continue
      const target = relative(root, resolve(dirname(file), specifier)).split(sep)
      if (target[0] === 'package.json') continue
      if (!scriptsMayImport[part].includes(target[0]))
        report(index, `${part} must not import "${specifier}" (it may import: ${scriptsMayImport[part].join(', ')})`)
      const upper =
        target[0] === 'lib' && target.length === 2 && upperFilesOfLib.some((name) => target[1].startsWith(name))
      if (part === 'lib' && leavesOfLib.includes(second) && upper)
        report(index, `lib/${second} must not import "${specifier}": models use it, not the other way round`)
    }
  })
  return found
}

function specifiers(line) {
  const patterns = [
    /\bfrom\s+['"]([^'"]+)['"]/g,
    /\b(?:import|require)\s*\(\s*['"]([^'"]+)['"]/g,
    /^\s*import\s+['"]([^'"]+)['"]/g,
  ]
  return patterns.flatMap((pattern) => [...line.matchAll(pattern)].map((match) => match[1]))
}

/** C++ text with comments and the contents of string literals blanked; lines keep their numbers. */
function withoutComments(text) {
  const token = /\/\/[^\n]*|\/\*[\s\S]*?\*\/|"(?:\\.|[^"\\\n])*"/g
  return text.replace(token, (match) => (match[0] === '"' ? '""' : match.replace(/[^\n]/g, ' ')))
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const found = checkLayers(process.argv[2] ?? repository)
  for (const { file, line, message } of found) console.error(`${file}:${line}: ${message}`)
  if (found.length > 0) process.exitCode = 1
  else console.log('layers: every include and import points the right way')
}
