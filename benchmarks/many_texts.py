"""Texts of many kinds, for which a tokenizer needs very different numbers of tokens; the same call, the same bytes."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import corpora  # finds the corpus of the tests

from ingestion_devstack.demo.corpus import make_corpus
from ingestion_devstack.demo.texts import HANDBOOK
from support.corpus.text import write_paragraphs

_GERMAN = (
    "Die Stadtbücherei öffnet montags erst um zehn Uhr, weil vormittags die Regale neu geordnet werden.",
    "Wasserschäden an alten Einbänden behandeln die Restauratorinnen zuerst mit Kälte und danach mit trockener Luft.",
    "Der Bürgermeister erklärte, dass die Brückensanierung frühestens im Herbst des übernächsten Jahres beginnt.",
    "Für die Verlängerung der Leihfrist genügt eine kurze Nachricht, sofern niemand das Buch vorgemerkt hat.",
    "Auf dem Dach stehen sechs Bienenkästen, deren Honig jedes Jahr zugunsten der Jugendabteilung verkauft wird.",
    "Nach heftigen Regenfällen überprüfte die Feuerwehr sämtliche Kellerräume des Verwaltungsgebäudes.",
    "Die Ausstellung zeigt Landkarten, Reisetagebücher und Messgeräte aus drei Jahrhunderten.",
    "Unterhaltungsmusik erklingt sonntags im Lesesaal, Getränke bleiben jedoch an der Garderobe.",
)
_KOREAN = (
    "시립 도서관은 월요일 오전에 서가를 새로 정리하기 때문에 열 시에 문을 엽니다.",
    "젖은 책은 먼저 얼린 다음 마른 공기로 천천히 말려야 종이가 상하지 않습니다.",
    "시장은 다리 보수 공사가 빨라야 내후년 가을에 시작될 것이라고 설명했습니다.",
    "다른 사람이 예약하지 않은 책은 짧은 연락만으로 대출 기간을 연장할 수 있습니다.",
    "옥상에는 벌통 여섯 개가 있으며 해마다 꿀을 팔아 어린이 자료실을 돕습니다.",
    "큰비가 내린 뒤 소방대는 관청 건물의 모든 지하실을 점검하였습니다.",
    "전시회에서는 삼백 년 동안의 지도와 여행 일기와 측량 기구를 볼 수 있습니다.",
    "일요일마다 열람실에서 음악회가 열리지만 음료는 보관소에 맡겨야 합니다.",
)
_HINDI = (
    "नगर पुस्तकालय सोमवार को दस बजे खुलता है क्योंकि सुबह अलमारियाँ फिर से सजाई जाती हैं।",
    "भीगी हुई किताबों को पहले जमाया जाता है और फिर सूखी हवा में धीरे धीरे सुखाया जाता है।",
    "महापौर ने बताया कि पुल की मरम्मत का काम अगले साल की सर्दियों से पहले शुरू नहीं होगा।",
    "यदि किसी और ने पुस्तक नहीं माँगी हो तो एक छोटे संदेश से उसकी अवधि बढ़ाई जा सकती है।",
    "छत पर मधुमक्खियों के छह छत्ते हैं जिनका शहद हर वर्ष बच्चों के विभाग के लिए बेचा जाता है।",
    "भारी वर्षा के बाद दमकल विभाग ने कार्यालय के सभी तहखानों की जाँच की।",
    "प्रदर्शनी में तीन शताब्दियों के नक्शे, यात्रा की डायरियाँ और मापने के उपकरण रखे गए हैं।",
    "रविवार को वाचनालय में संगीत होता है, लेकिन पेय पदार्थ बाहर ही छोड़ने पड़ते हैं।",
)
_THAI = (
    "ห้องสมุดประชาชนเปิดเวลาสิบนาฬิกาในวันจันทร์เพราะตอนเช้าเจ้าหน้าที่จัดเรียงหนังสือใหม่",
    "หนังสือที่เปียกน้ำต้องนำไปแช่แข็งก่อนแล้วจึงค่อยผึ่งให้แห้งด้วยอากาศที่ไม่มีความชื้น",
    "นายกเทศมนตรีกล่าวว่าการซ่อมสะพานจะเริ่มได้เร็วที่สุดในฤดูใบไม้ร่วงของปีถัดไป",
    "ผู้ยืมสามารถขอขยายเวลาได้ด้วยข้อความสั้นๆ หากไม่มีผู้อื่นจองหนังสือเล่มนั้นไว้",
    "บนหลังคามีรังผึ้งหกรัง และทุกปีจะขายน้ำผึ้งเพื่อช่วยเหลือแผนกหนังสือสำหรับเด็ก",
    "หลังจากฝนตกหนัก เจ้าหน้าที่ดับเพลิงได้ตรวจสอบห้องใต้ดินทั้งหมดของอาคารที่ทำการ",
    "นิทรรศการนี้แสดงแผนที่ บันทึกการเดินทาง และเครื่องมือวัดจากสามศตวรรษ",
    "ทุกวันอาทิตย์มีดนตรีในห้องอ่านหนังสือ แต่ต้องฝากเครื่องดื่มไว้ที่เคาน์เตอร์",
)


def _in_language(sentences: tuple[str, ...], rng: random.Random, chars: int) -> str:
    """Return paragraphs of these sentences, with every third word another one of them."""
    words = " ".join(sentences).split()
    paragraphs: list[str] = []
    while sum(map(len, paragraphs)) < chars:
        chosen = rng.choices(sentences, k=rng.randrange(3, 8))
        mixed = (rng.choice(words) if rng.random() < 0.33 else word for line in chosen for word in line.split())
        paragraphs.append(" ".join(mixed))
    return "\n\n".join(paragraphs)


def _english(rng: random.Random, chars: int) -> str:
    kept = [paragraph for paragraphs in HANDBOOK.values() for paragraph in paragraphs]
    return "\n\n".join([*rng.sample(kept, len(kept)), *write_paragraphs(rng, chars)])[:chars]


def _code(rng: random.Random, chars: int) -> str:
    """Return modules of this repository, one after another."""
    paths = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))
    rng.shuffle(paths)
    parts: list[str] = []
    while sum(map(len, parts)) < chars:
        parts.append(paths[len(parts) % len(paths)].read_text(encoding="utf-8"))
    return "\n\n".join(parts)[:chars]


def _base64(rng: random.Random, chars: int) -> str:
    """Return some prose, base64 in lines as of a mail, and in one line as of a data URL."""
    bits = rng.randbytes(chars * 3 // 8)
    lines = base64.encodebytes(bits).decode()
    return f"{_english(rng, 2000)}\n\n{lines}\n\n{base64.b64encode(bits).decode()}"


def _letters(rng: random.Random, chars: int) -> str:
    """Return runs of random letters, as of protein sequences, between short words."""
    runs = ("".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randrange(60, 900))) for _ in range(chars // 480))
    return "\n\n".join(f"Sequence {number}\n{run}" for number, run in enumerate(runs))


TEXTS: Mapping[str, Callable[[random.Random, int], str]] = {
    "English": _english,
    "code": _code,
    "German": lambda rng, chars: _in_language(_GERMAN, rng, chars),
    "Korean": lambda rng, chars: _in_language(_KOREAN, rng, chars),
    "Hindi": lambda rng, chars: _in_language(_HINDI, rng, chars),
    "Thai": lambda rng, chars: _in_language(_THAI, rng, chars),
    "base64": _base64,
    "letter runs": _letters,
}
DEMO = "demo corpus"
MIXED = "mixed"
"""Documents of all other kinds in turn, so that batches hold several."""


def make_objects(kind: str, documents: int, chars: int) -> Iterator[tuple[str, bytes]]:
    """Yield keys and bodies of documents of one kind; the demo corpus has its own number and sizes."""
    if kind == DEMO:
        yield from make_corpus().items()
        return
    for number in range(documents):
        makers = list(TEXTS.values()) if kind == MIXED else [TEXTS[kind]]
        rng = random.Random(f"{kind} {number}")
        yield f"{number:04d}.txt", makers[number % len(makers)](rng, chars).encode()


assert corpora  # imported for its path to the tests' corpus
