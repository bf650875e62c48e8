import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { repository } from './helpers/command'

const folder = join(repository, 'examples')
const files = readdirSync(folder).filter((name) => /\.(mjs|cjs|ts)$/.test(name))

/** What each example must print; an example without an entry fails. */
const expected: Record<string, RegExp> = {
  'abort.mjs': /^TimeoutError: [1-9]\d* tokens until then$/m,
  'batch.mjs': /^16 answers, \d+ tokens\/s together\nthe same alone: true$/m,
  'cjs.cjs': /\b35\b[^\n]*\none class: true/,
  'conversation.mjs': /\b77\b[\s\S]*\b62\b[^\n]*\((\d+) prompt tokens, [1-9]\d* from the cache\)/,
  'errors.mjs': /MODEL_NOT_FOUND[\s\S]*INVALID_ARGUMENT[\s\S]*CONTEXT_OVERFLOW[\s\S]*CLOSED/,
  'logprobs.mjs': /log-probability of the text: -\d+\.\d\d\n\d+ logits; the likeliest next token is "/,
  'quick.mjs': /\b35\b/,
  'speculation.mjs': /^\d+ of [1-9]\d* drafted tokens accepted, \d+ tokens in all\nthe same without: true$/m,
  'streaming.mjs': /\b35\b[\s\S]*stop, thinking ended: natural\n\d+ prompt, [1-9]\d* thinking, [1-9]\d* answer tokens/,
  // A slow machine may read the first line when the thought is over.
  'thinking-budget.mjs':
    /\{\} -> [^\n]*natural[\s\S]*stopped: budget[\s\S]*stopped: null[\s\S]*endThinking\(\) -> [^\n]*stopped: (requested|natural)/,
  'tokenizer.mjs':
    /^\d+ tokens: [\d ]+\nGröße: 12 \+ 30 ≤ 42 🙂\nas text: ([2-9]|\d\d+) tokens; as a control token: 1$/m,
  'tools.mjs': /^calculator\(\{"expression":"[^"]*"\}\) = 56\n[^\n]*\b56\b/m,
  'typescript.ts': /\b35\b[\s\S]*\d+ tokens\nstop/,
  'worker.mjs': /^the worker says: .*\b35\b/m,
}

// The package imports itself by name ("qwen3"), through the exports of package.json, so these run against dist/.
function run(name: string): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const loader = name.endsWith('.ts') ? ['--import', 'tsx'] : []
  const child = spawn(process.execPath, [...loader, join(folder, name)], {
    cwd: repository,
    env: { ...process.env, NO_COLOR: undefined },
  })
  const text = { stdout: '', stderr: '' }
  for (const stream of ['stdout', 'stderr'] as const)
    child[stream].setEncoding('utf8').on('data', (chunk) => (text[stream] += chunk))
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) => resolve({ code, ...text }))
  })
}

describe('examples', () => {
  it.each(files)('%s runs and prints what it promises', async (name) => {
    const { code, stdout, stderr } = await run(name)
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(expected[name] ?? /^no expectation for this example$/)
  })

  it('are all listed in the README beside them', () => {
    const readme = readFileSync(join(folder, 'README.md'), 'utf8')
    for (const name of files) expect(readme).toContain(`[${name}](${name})`)
  })
})
