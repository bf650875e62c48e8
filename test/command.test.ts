import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { byteCount, integer, number } from '../bin/common/flags'
import { hasColour, printable } from '../bin/common/terminal'
import { qwen3, start, startCommand } from './helpers/command'

const folder = mkdtempSync(join(tmpdir(), 'qwen3-command-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const question = 'What is 12+30-7?'
const escapeCode = '\x1b'

describe('help and usage', () => {
  const commands = ['run', 'chat', 'demo', 'inspect', 'tokenize', 'bench', 'build', 'doctor']

  it('lists every command, the exit codes and first steps', async () => {
    const { code, stdout, stderr } = await qwen3(['--help'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    for (const text of [...commands, 'Exit codes:', 'First steps:']) expect(stdout).toContain(text)
  })

  it.each(commands)('help %s has examples', async (name) => {
    const { code, stdout } = await qwen3(['help', name])
    expect(code).toBe(0)
    expect(stdout).toContain(`Usage: qwen3 ${name}`)
    expect(stdout).toMatch(/\nExamples:\n {2}(npx )?qwen3 /)
  })

  it.each([
    [[], /Usage: qwen3/],
    [['frobnicate'], /unknown command 'frobnicate'/],
    [['inspct'], /Did you mean inspect\?/],
    [['run', '--bogus'], /unknown option '--bogus'/],
    [['run'], /there is no prompt/],
    [['run', '--max-tokens', 'many', 'x'], /expected a number/],
    [['run', '--weights', 'int3', 'x'], /Allowed choices are auto, f32, bf16/],
    [['tokenize'], /there is no text/],
    [['tokenize', '--decode', '1', 'x'], /expects token ids, not "x"/],
  ])('%j is a usage error: exit code 2, nothing on stdout', async (args, message) => {
    const { code, stdout, stderr } = await qwen3(args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(message)
  })

  it('prints the version of the package', async () => {
    const { version } = JSON.parse(readFileSync(join(__dirname, '../package.json'), 'utf8'))
    expect((await qwen3(['--version'])).stdout).toBe(`${version}\n`)
  })
})

describe('flags', () => {
  it('reads numbers and sizes, and refuses everything else', () => {
    expect([number('0.5'), number('-1'), integer('12')]).toEqual([0.5, -1, 12])
    expect([byteCount('1000'), byteCount('2K'), byteCount('1.5GiB'), byteCount('512MB')]).toEqual([
      1000,
      2048,
      1.5 * 2 ** 30,
      2 ** 29,
    ])
    for (const text of ['', ' ', 'NaN', 'Infinity', '1x']) expect(() => number(text)).toThrow('expected a number')
    for (const text of ['1.5', '1e99']) expect(() => integer(text)).toThrow('whole number')
    for (const text of ['', '-1', '1Q', 'G']) expect(() => byteCount(text)).toThrow('expected a size')
  })

  it('colours terminals only, and obeys NO_COLOR and FORCE_COLOR', () => {
    expect(hasColour({ isTTY: true }, {})).toBe(true)
    expect(hasColour({ isTTY: false }, {})).toBe(false)
    expect(hasColour({}, {})).toBe(false)
    expect(hasColour({ isTTY: true }, { NO_COLOR: '1' })).toBe(false)
    expect(hasColour({ isTTY: true }, { TERM: 'dumb' })).toBe(false)
    expect(hasColour({ isTTY: false }, { FORCE_COLOR: '1' })).toBe(true)
    expect(hasColour({ isTTY: true }, { FORCE_COLOR: '1', NO_COLOR: '1' })).toBe(false)
  })

  it('shows control characters on a terminal instead of obeying them', () => {
    const hostile = `a${escapeCode}]0;title\x07b\x7f\x9b31m\tc\n`
    expect(printable({ isTTY: true } as NodeJS.WriteStream, hostile)).toBe('a␛]0;title␇b␡\ufffd31m\tc\n')
    expect(printable({ isTTY: false } as NodeJS.WriteStream, hostile)).toBe(hostile)
  })
})

describe('run', () => {
  it('prints the answer alone into a pipe; the note about nano goes to stderr, once', async () => {
    const { code, stdout, stderr } = await qwen3(['run', '--seed', '1', question])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^[^\n]*\b35\b[^\n]*\n$/)
    expect(stdout + stderr).not.toContain(escapeCode)
    expect(stdout).not.toContain('think>')
    expect(stderr.match(/tiny demo model/g)).toHaveLength(1)
    expect(stderr).toContain('--model ./')
  })

  it('takes the prompt from stdin, or from both: arguments first', async () => {
    const options = ['run', '-q', '--seed', '1', '--json']
    const [piped, both, words] = await Promise.all([
      qwen3(options, { input: `${question}\n` }),
      qwen3([...options, 'What is', '12+30-7?'], { input: '' }),
      qwen3([...options, question]),
    ])
    expect(JSON.parse(piped.stdout).ids).toEqual(JSON.parse(words.stdout).ids)
    expect(JSON.parse(both.stdout).ids).toEqual(JSON.parse(words.stdout).ids)
    const joined = await qwen3(['run', '-q', '--json', '--raw', '--max-tokens', '1', 'one'], { input: 'two\n' })
    const alone = await qwen3(['tokenize', '--count', 'one\n\ntwo'])
    expect(JSON.parse(joined.stdout).usage.promptTokens).toBe(Number(alone.stdout))
  })

  it('--json prints one object whose ids are the completion; --stats and notes stay on stderr', async () => {
    const { code, stdout, stderr } = await qwen3(['run', '-q', '--json', '--stats', '--seed', '7', question])
    expect(code).toBe(0)
    const result = JSON.parse(stdout)
    expect(result).toMatchObject({
      model: 'nano',
      seed: 7,
      finishReason: 'stop',
      thinkingStop: 'natural',
      toolCalls: [],
    })
    expect(result.text).toContain('35')
    expect(result.thinking).not.toBe('')
    expect(result.ids).toHaveLength(result.usage.completionTokens)
    expect(stderr).toMatch(/prefill +[\d.]+ tokens\/s[\s\S]*decode +[\d.]+ tokens\/s/)
  })

  it('the same seed gives the same answer', async () => {
    const runs = await Promise.all([1, 2].map(() => qwen3(['run', '-q', '--json', '--seed', '11', question])))
    expect(JSON.parse(runs[0]!.stdout).ids).toEqual(JSON.parse(runs[1]!.stdout).ids)
  })

  it('--no-think and --budget 0 do not think; --budget n thinks for at most n tokens', async () => {
    const run = async (...args: string[]) =>
      JSON.parse((await qwen3(['run', '-q', '--json', '--seed', '3', ...args, question])).stdout)
    const [off, zero, eight] = await Promise.all([run('--no-think'), run('--budget', '0'), run('--budget', '8')])
    for (const result of [off, zero]) expect(result).toMatchObject({ thinking: '', thinkingStop: null })
    expect(zero.ids).toEqual(off.ids)
    expect(eight.thinkingStop).toBe('budget')
    expect(eight.usage.forcedTokens).toBeGreaterThan(0)
    expect(eight.text).not.toBe('')
  })

  it('prints thinking to stderr on request, never to the piped stdout', async () => {
    const shown = await qwen3(['run', '-q', '--show-thinking', '--seed', '1', question])
    const plain = await qwen3(['run', '-q', '--seed', '1', question])
    expect(shown.stdout).toBe(plain.stdout)
    expect(plain.stderr).toBe('')
    expect(shown.stderr.length).toBeGreaterThan(5)
  })

  it('prints tool calls as JSON lines', async () => {
    const tools = join(folder, 'tools.json')
    const parameters = { type: 'object', properties: { expression: { type: 'string' } }, required: ['expression'] }
    writeFileSync(
      tools,
      JSON.stringify([
        {
          type: 'function',
          function: { name: 'calculator', description: 'Evaluate an arithmetic expression.', parameters },
        },
      ]),
    )
    const { code, stdout } = await qwen3([
      'run',
      '-q',
      '--seed',
      '1',
      '--tools',
      tools,
      'Tom has 48 apples. Day 1: he buys 37. Day 2: he loses 29. How many apples does Tom have now?',
    ])
    expect(code).toBe(0)
    const call = JSON.parse(
      stdout
        .trim()
        .split('\n')
        .find((line) => line.startsWith('{'))!,
    )
    expect(call).toMatchObject({ name: 'calculator', arguments: { expression: expect.any(String) } })
  })

  it.each([
    [['--model', './no-such-folder'], 1, 'MODEL_NOT_FOUND'],
    [['--model', 'nanno'], 1, 'MODEL_NOT_FOUND'],
    [['--temperature', '-1'], 2, 'INVALID_ARGUMENT'],
    [['--top-p', '0'], 2, 'INVALID_ARGUMENT'],
    [['--budget', '-5'], 2, 'INVALID_ARGUMENT'],
    [['--device', 'toaster'], 1, 'UNSUPPORTED'],
    [['--tools', join(folder, 'absent.json')], 1, 'ENOENT'],
  ])('%j ends with exit code %i and says why', async (args, expected, message) => {
    const { code, stdout, stderr } = await qwen3(['run', ...args, question])
    expect({ code, stdout }).toEqual({ code: expected, stdout: '' })
    expect(stderr).toContain(message)
    expect(stderr).not.toContain('    at ')
  })

  it('stops on Ctrl-C with exit code 130, on SIGTERM with 143', async () => {
    const endless = ['run', '-q', '--raw', '--ignore-eos', '--context', '8192', '1 + 1 ='] // seconds of output
    for (const [signal, code] of [
      ['SIGINT', 130],
      ['SIGTERM', 143],
    ] as const) {
      const running = startCommand(endless)
      await running.saw(/\S{2,}/)
      running.child.kill(signal)
      expect(await running.finished).toMatchObject({ code, stderr: '' })
    }
  })

  it('ends quietly when the reader of the pipe goes away', async () => {
    const running = startCommand(['run', '-q', '--raw', '--ignore-eos', '--context', '8192', '1 + 1 ='])
    await running.saw(/\S{2,}/)
    running.child.stdout!.destroy()
    expect(await running.finished).toMatchObject({ code: 0, stderr: '' })
  })
})

describe('the other commands', () => {
  it('tokenize shows ids, counts, and decodes back', async () => {
    const text = 'Tom: 12 + 30 = 42?\n'
    const json = await qwen3(['tokenize', '--json'], { input: text })
    const ids = JSON.parse(json.stdout) as number[]
    expect((await qwen3(['tokenize', '--count'], { input: text })).stdout).toBe(`${ids.length}\n`)
    expect((await qwen3(['tokenize', '--decode', ...ids.map(String)])).stdout).toBe(`${text}\n`)
    const lines = (await qwen3(['tokenize', 'a\nb'])).stdout.trim().split('\n')
    expect(lines.map((line) => JSON.parse(line.trim().split(/\s+/)[1]!)).join('')).toBe('a\nb')
    const special = await Promise.all(
      [[], ['--special']].map((flag) => qwen3(['tokenize', '--count', ...flag, '<|im_end|>'])),
    )
    expect(Number(special[0]!.stdout)).toBeGreaterThan(1)
    expect(special[1]!.stdout).toBe('1\n')
  })

  it('inspect says sizes, layers and memory, without loading', async () => {
    const [text, json, big] = await Promise.all([
      qwen3(['inspect', 'nano-moe', '--context', '4096', '--tensors']),
      qwen3(['inspect', 'nano-moe', '--context', '4096', '--json']),
      qwen3(['inspect', 'random:qwen3-235b-a22b', '--json']),
    ])
    const about = JSON.parse(json.stdout)
    expect(about).toMatchObject({
      architecture: 'qwen3_moe',
      contextLength: 4096,
      formats: { bf16: expect.any(Number) },
    })
    const { config, memory } = about
    const perToken = 2 * config.layers * config.kvHeads * config.headDim * 2
    expect(memory[0]).toMatchObject({ format: 'bf16', kvBytesPerToken: perToken, kvCacheBytes: perToken * 4096 })
    expect(text.stdout).toContain('model.layers.0.mlp.experts.0.down_proj.weight  bf16 [')
    expect(text.stdout).not.toContain(escapeCode)
    expect(JSON.parse(big.stdout).parameters).toBeGreaterThan(230e9)
  })

  it('inspect --weights plans one choice of formats; --devices lists what can compute', async () => {
    const [int4, mixed, kv, devices, json] = await Promise.all([
      qwen3(['inspect', 'random:qwen3-8b', '--weights', 'int4', '--json']),
      qwen3(['inspect', 'random:qwen3-8b', '--weights', 'int4', '--head-weights', 'int8', '--json']),
      qwen3(['inspect', 'random:qwen3-8b', '--weights', 'int4', '--kv-cache', 'int8', '--json']),
      qwen3(['inspect', '--devices']),
      qwen3(['inspect', '--devices', '--json']),
    ])
    const weights = (text: string) => JSON.parse(text).memory.map((row: { weightBytes: number }) => row.weightBytes)
    expect(weights(int4.stdout)).toHaveLength(1)
    expect(JSON.parse(kv.stdout).memory[0].kvBytesPerToken).toBe(2 * 36 * 8 * (128 + 4))
    expect(weights(mixed.stdout)[0]).toBeGreaterThan(weights(int4.stdout)[0])
    expect(devices.stdout).toMatch(/^cpu +\d+ cores, kernels for .*scalar/)
    const { cpu, cuda } = JSON.parse(json.stdout)
    expect(cpu.levels).toContain('scalar')
    expect(cuda.devices.length > 0 || cuda.reason !== '').toBe(true)
  })

  it('bench measures prefill and decode', async () => {
    const { code, stdout } = await qwen3([
      'bench',
      '--prompt',
      '64',
      '--generate',
      '16',
      '--sequences',
      '2',
      '--runs',
      '2',
      '--json',
    ])
    expect(code).toBe(0)
    const result = JSON.parse(stdout)
    expect(result.runs).toHaveLength(2)
    for (const field of ['prefillTokensPerSecond', 'decodeTokensPerSecond', 'firstTokenMs'])
      expect(result[field]).toBeGreaterThan(0)
  })

  it('demo answers at three budgets in plain lines; more thinking, right answer', async () => {
    const { code, stdout, stderr } = await qwen3(['demo'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).not.toContain(escapeCode)
    expect(stdout).toMatch(/^budget 256 *\| \(thinking\) /m)
    expect(stdout).toMatch(/^budget 256 +\d+ tokens of thinking: right$/m)
    expect(stdout).toMatch(/^budget 64 +\d+ tokens of thinking, cut by the budget/m)
    expect(stdout).toMatch(/^budget 0 +0 tokens of thinking/m)
  })

  it('doctor finds nothing wrong here', async () => {
    const { code, stdout } = await qwen3(['doctor'])
    expect(stdout).not.toMatch(/^bad/m)
    expect(stdout).toMatch(/^ok {2}nano +"[^"]*35/m)
    expect(code).toBe(0)
  })

  it('doctor says what to do when the addon cannot be loaded', async () => {
    const { code, stdout } = await qwen3(['doctor'], { env: { QWEN3_ADDON_PATH: join(folder, 'absent.node') } })
    expect(code).toBe(1)
    expect(stdout).toMatch(/^bad addon +No native addon could be loaded.*npx qwen3 build.*absent\.node/m)
    expect(stdout).toMatch(/^(ok {2}|bad )tools /m)
  })

  it('build names the packages of missing tools', async () => {
    const { code, stderr } = await qwen3(['build'], { env: { PATH: folder, CXX: undefined } })
    expect(code).toBe(1)
    for (const text of ['apt-get install cmake', 'dnf install gcc-c++', 'xcode-select --install'])
      expect(stderr).toContain(text)
  })

  it('build --cuda names the tools that it needs, and asks for an architecture where there is no GPU', async () => {
    const bare = await qwen3(['build', '--cuda'], { env: { PATH: folder, CXX: undefined } })
    expect(bare.code).toBe(1)
    for (const text of ['nvcc was not found', 'CUDA Toolkit 13', 'apt-get install ninja-build'])
      expect(bare.stderr).toContain(text)
    const { code, stderr } = await qwen3(['build', '--arch', '90a'])
    expect(code).toBe(2)
    expect(stderr).toContain('--arch is for --cuda')
  })

  it('the demo script of a fresh clone names them too', async () => {
    const script = join(__dirname, '../scripts/demo.mjs')
    const { code, stderr } = await start(process.execPath, [script], { env: { PATH: folder, CXX: undefined } }).finished
    expect(code).toBe(1)
    for (const text of ['apt-get install cmake', 'dnf install gcc-c++', 'brew install']) expect(stderr).toContain(text)
  })
})
