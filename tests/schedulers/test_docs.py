"""The page about the schedulers says what their docstrings say, and its pictures are there."""

from scripts import draw_schedulers


def test_the_page_is_up_to_date():
    page = draw_schedulers.PAGE.read_text(encoding="utf-8")
    assert page == draw_schedulers.page(), "run: python scripts/draw_schedulers.py"


def test_every_policy_has_its_paragraph_and_its_picture():
    page = draw_schedulers.PAGE.read_text(encoding="utf-8")
    sections = page.split("\n## ")[1:]
    assert [section.split("\n")[0] for section in sections] == list(draw_schedulers.SETTINGS)
    for name, section in zip(draw_schedulers.SETTINGS, sections):
        assert "Source:" in section and "Its weakness:" in section
        assert (draw_schedulers.PICTURES / f"{name}.png").read_bytes()[1:4] == b"PNG"


def test_the_pictures_show_twelve_iterations_of_the_same_workload():
    for name, schedule in draw_schedulers.schedules().items():
        assert schedule.policy == name
        assert [len(row) for row in schedule.rows] == [12] * 5
