/** Runs the command in a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'

export const repository = join(__dirname, '..', '..')
/** `npm test` has built dist/ and tests that, what ships; otherwise the sources run as they are. */
export const commandArgs =
  process.env.QWEN3_TEST_DIST === '1'
    ? [join(repository, 'dist/bin/qwen3.js')]
    : ['--import', 'tsx', join(repository, 'bin/qwen3.ts')]

export interface Finished {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

export interface Running {
  child: ChildProcess
  finished: Promise<Finished>
  /** Resolves when the output after the last match holds `text`; rejects when the process ends before. */
  saw(text: string | RegExp): Promise<void>
}

interface Options {
  /** stdin; undefined = /dev/null. */
  input?: string
  env?: NodeJS.ProcessEnv
  cwd?: string
  /** Keep stdin open for writing. */
  open?: boolean
}

export function start(command: string, args: string[], { input, env, cwd, open }: Options = {}): Running {
  const child = spawn(command, args, {
    cwd: cwd ?? repository,
    env: { ...process.env, NO_COLOR: undefined, FORCE_COLOR: undefined, ...env },
    stdio: [input === undefined && !open ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  })
  const text = { stdout: '', stderr: '' }
  const watchers = new Set<() => void>()
  /** stdout and stderr in order of arrival, without what saw() has matched. */
  let unseen = ''
  for (const name of ['stdout', 'stderr'] as const)
    child[name]!.setEncoding('utf8').on('data', (chunk: string) => {
      text[name] += chunk
      unseen += chunk
      for (const watcher of watchers) watcher()
    })
  if (input !== undefined) child.stdin!.end(input)
  let ended = false
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      ended = true
      for (const watcher of watchers) watcher()
      resolve({ code, signal, ...text })
    })
  })
  const saw = (wanted: string | RegExp) =>
    new Promise<void>((resolve, reject) => {
      const watcher = () => {
        const match = typeof wanted === 'string' ? unseen.indexOf(wanted) : unseen.search(wanted)
        const found = match >= 0
        if (!found && !ended) return
        watchers.delete(watcher)
        if (!found) return reject(new Error(`ended without ${wanted}:\n${text.stdout}${text.stderr}`))
        const length = typeof wanted === 'string' ? wanted.length : wanted.exec(unseen)![0].length
        unseen = unseen.slice(match + length)
        resolve()
      }
      watchers.add(watcher)
      watcher()
    })
  return { child, finished, saw }
}

export const startCommand = (args: string[], options: Options = {}): Running =>
  start(process.execPath, [...commandArgs, ...args], options)

/** Runs `qwen3 ...args` to its end. */
export const qwen3 = (args: string[], options: Options = {}): Promise<Finished> => startCommand(args, options).finished
