/** The names that a template finds defined: constants, range, raise_exception, strftime_now. */
import type { Meter } from './jinja-strings'
import {
  type JinjaValue,
  makeArray,
  makeBoolean,
  makeFunction,
  makeInteger,
  makeNull,
  makeString,
  TemplateFault,
} from './jinja-values'

export function globals(meter: Meter): Record<string, JinjaValue> {
  const range = makeFunction((args) => {
    const [start, stop, step] = rangeBounds(args)
    if (step === 0) throw new TemplateFault('error', 'range: the step must not be zero')
    const count = Math.max(0, Math.ceil((stop - start) / step))
    meter.spend(count)
    return makeArray(Array.from({ length: count }, (_, i) => makeInteger(start + i * step)))
  })
  const raise = makeFunction(([message]) => {
    const isText = message?.type === 'StringValue'
    throw new TemplateFault('raised', isText ? meter.plain(message.value as string).slice(0, 1000) : 'no reason given')
  })
  const now = makeFunction(([format]) => {
    return makeString(strftime(format?.type === 'StringValue' ? (format.value as string).slice(0, 200) : ''))
  })
  const [yes, no, none] = [makeBoolean(true), makeBoolean(false), makeNull()]
  const constants = { true: yes, True: yes, false: no, False: no, none, None: none }
  return { ...constants, range, raise_exception: raise, strftime_now: now }
}

/** range(stop), range(start, stop), range(start, stop, step). */
function rangeBounds(args: JinjaValue[]): [number, number, number] {
  const integer = (value: JinjaValue | undefined, fallback: number) => {
    if (value === undefined) return fallback
    if (value.type !== 'IntegerValue') throw new TemplateFault('error', 'range: expected whole numbers')
    return value.value as number
  }
  const [a, b, c] = args
  return b === undefined ? [0, integer(a, 0), 1] : [integer(a, 0), integer(b, 0), integer(c, 1)]
}

/** The codes that chat templates use, in English, as Python's C locale writes them. */
function strftime(format: string): string {
  const date = new Date()
  const pad = (n: number) => String(n).padStart(2, '0')
  const english = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat('en-US', options).format(date)
  const codes: Record<string, () => string> = {
    Y: () => String(date.getFullYear()),
    m: () => pad(date.getMonth() + 1),
    d: () => pad(date.getDate()),
    b: () => english({ month: 'short' }),
    B: () => english({ month: 'long' }),
    a: () => english({ weekday: 'short' }),
    A: () => english({ weekday: 'long' }),
    H: () => pad(date.getHours()),
    M: () => pad(date.getMinutes()),
    S: () => pad(date.getSeconds()),
    '%': () => '%',
  }
  return format.replace(/%(.)/g, (code, letter: string) => (Object.hasOwn(codes, letter) ? codes[letter]!() : code))
}
