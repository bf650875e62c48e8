import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { commandArgs, qwen3, start, startCommand } from './helpers/command'

const folder = mkdtempSync(join(tmpdir(), 'qwen3-chat-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const chat = (lines: string[], ...args: string[]) =>
  qwen3(['chat', '-q', '--seed', '1', ...args], { input: `${lines.join('\n')}\n` })

describe('chat from a pipe', () => {
  it('answers every line, remembers the turns, and prints answers alone on stdout', async () => {
    const file = join(folder, 'saved.json')
    const { code, stdout, stderr } = await chat([
      'What is 12+30-7?',
      '/no_think',
      'What is 2+3?',
      `/save ${file}`,
      '/exit',
      'not read',
    ])
    expect(code).toBe(0)
    expect(stdout.trim().split('\n')).toHaveLength(2)
    expect(stdout).toMatch(/\b35\b[^\n]*\n[^\n]*\d+[^\n]*\n$/) // without thinking it guesses
    expect(stderr).toBe(`thinking is off\n4 messages written to ${file}\n`)
    const saved = JSON.parse(readFileSync(file, 'utf8'))
    expect(saved.version).toBe(1)
    expect(saved.messages.map((message: { role: string }) => message.role)).toEqual([
      'user',
      'assistant',
      'user',
      'assistant',
    ])
    expect(saved.messages[0].reasoning_content).toBeUndefined()
  })

  it('goes on with a saved conversation, and forgets it on /clear', async () => {
    const file = join(folder, 'turns.json')
    const messages = [
      { role: 'user', content: 'What is 2+3?' },
      { role: 'assistant', content: 'The answer is 5.' },
    ]
    writeFileSync(file, JSON.stringify({ version: 1, messages }))
    const stats = async (lines: string[]) => {
      const { stderr } = await chat(lines, '--stats', '--no-think')
      return Number(/prompt +(\d+) tokens/.exec(stderr)![1])
    }
    const long = await stats([`/load ${file}`, 'What is 1+1?'])
    const short = await stats([`/load ${file}`, '/clear', 'What is 1+1?'])
    expect(long).toBeGreaterThan(short)
  })

  it('changes the budget and the system message while it runs', async () => {
    const { stderr } = await chat([
      '/budget 8',
      '/stats',
      'What is 12+30-7?',
      '/budget off',
      '/system Be brief.',
      '/system',
    ])
    expect(stderr).toContain('at most 8 tokens of thinking')
    expect(stderr).toContain('ended: budget')
    expect(stderr).toContain('thinking is unlimited')
    expect(stderr).toContain('the system message is set')
    expect(stderr).toContain('the system message is removed')
  })

  it('joins lines that end in a backslash', async () => {
    const file = join(folder, 'joined.json')
    await chat(['What is \\', '2 + 3?', `/save ${file}`], '--no-think')
    expect(JSON.parse(readFileSync(file, 'utf8')).messages[0].content).toBe('What is \n2 + 3?')
  })

  it('a wrong command is reported, the conversation goes on, the exit code remembers', async () => {
    const bad = join(folder, 'bad.json')
    writeFileSync(bad, '{"version": 1, "messages": [{"role": "robot"}]}')
    const { code, stdout, stderr } = await chat([
      '/frobnicate',
      '/budget many',
      `/load ${bad}`,
      '/save',
      '/no_think What is 2+3?',
    ])
    expect(code).toBe(2)
    expect(stderr).toContain('there is no command /frobnicate')
    expect(stderr).toContain('/budget expects a number')
    expect(stderr).toContain('is not a conversation')
    expect(stderr).toContain('/save expects a file name')
    expect(stdout).toMatch(/\d/)
  })

  it('a turn that does not fit leaves the conversation as it was', async () => {
    const file = join(folder, 'overflow.json')
    const long = 'one two three '.repeat(400)
    const { code, stderr } = await chat([long, '/no_think What is 2+3?', `/save ${file}`], '--context', '512')
    expect(code).toBe(1)
    expect(stderr).toContain('CONTEXT_OVERFLOW')
    expect(JSON.parse(readFileSync(file, 'utf8')).messages).toHaveLength(2)
  })

  it('Ctrl-C between turns ends a piped conversation with 130', async () => {
    const running = startCommand(['chat', '-q', '--no-think', '--stats'], { open: true })
    running.child.stdin!.write('What is 2+3?\n')
    await running.saw(/seed +\d+\n/) // the last line of --stats: the answer is complete
    running.child.kill('SIGINT')
    expect(await running.finished).toMatchObject({ code: 130 })
  })
})

// `script` (util-linux) gives the command a terminal of its own.
describe.runIf(process.platform === 'linux')('chat at a terminal', () => {
  const shellQuote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`
  const terminal = (args: string[]) =>
    start(
      'script',
      // exec: a shell that stays would die of the Ctrl-C that the program survives.
      [
        '-qefc',
        `exec ${[process.execPath, ...commandArgs, 'chat', '-q', ...args].map(shellQuote).join(' ')}`,
        '/dev/null',
      ],
      {
        open: true,
        env: { TERM: 'xterm' },
      },
    )

  it('dims the thinking; Ctrl-C stops the answer and not the program', async () => {
    // Without an end token an answer runs for seconds: time enough to press Ctrl-C.
    const running = terminal(['--seed', '1', '--ignore-eos', '--max-tokens', '6000', '--context', '8192'])
    const { child } = running
    const prompt = '\x1b[1m> '
    await running.saw(prompt)
    child.stdin!.write('Start with 31. Step 1: add 78. Step 2: subtract 25. Which number do you get?\r')
    await running.saw('\x1b[2mStep 1') // thinking, dimmed
    child.stdin!.write('\x03')
    await running.saw('(stopped)')
    await running.saw(prompt)
    child.stdin!.write('\x03') // at the prompt: a hint, no end
    await running.saw('Ctrl-C stops an answer')
    await running.saw(prompt)
    child.stdin!.write('/help\r')
    await running.saw('/save FILE')
    await running.saw(prompt)
    child.stdin!.write('/exit\r')
    expect(await running.finished).toMatchObject({ code: 0 })
  })

  it('Ctrl-D ends', async () => {
    const running = terminal([])
    await running.saw('\x1b[1m> ')
    running.child.stdin!.write('\x04')
    expect(await running.finished).toMatchObject({ code: 0 })
  })
})
